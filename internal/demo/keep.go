//go:build linux

package demo

import (
	"net"
	"path/filepath"
	"slices"

	"github.com/waystone-mesh/waystone/examples/bookinfo"
)

// keep tells what can be tried in the mesh that is left running.
func (d *demo) keep() {
	socks := func(pod string) string {
		return "curl --socks5-hostname " + net.JoinHostPort(bookinfo.IPs[pod], "15080") + " "
	}
	d.line("\n%s", d.paint(bold, "The mesh stays up until Ctrl-C. Try:"))
	for _, c := range []string{
		socks("sleep") + page,
		socks("sleep") + "-X DELETE " + page,
		socks("notsleep") + page,
		socks("sleep") + "http://reviews:9080/reviews/0",
		"curl " + d.ingress.url(),
	} {
		d.command(c)
	}
	d.line("\nEdit, add or remove manifests; what is saved applies at once:")
	names, _ := filepath.Glob(filepath.Join(d.config, "*.yaml"))
	for _, n := range names {
		d.note(n)
	}
	d.line("\nWhat the proxies say:")
	ips := []string{}
	for _, ip := range nodeIPs {
		ips = append(ips, ip)
	}
	for name, c := range map[string]*child{"bookinfo-productpage-istio-waypoint": d.waypoint, "bookinfo-reviews-istio-waypoint": d.reviews} {
		if c != nil {
			ips = append(ips, bookinfo.IPs[name])
		}
	}
	slices.Sort(ips)
	for _, ip := range ips {
		d.note("http://" + ip + ":15020/stats/prometheus   http://" + ip + ":15000/config_dump")
	}
	for _, c := range d.family.all {
		d.note(c.log.path)
	}
}
