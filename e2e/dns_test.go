//go:build linux

package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/waystone-mesh/waystone/e2e/internal/cluster"
)

// Names of ServiceEntries are answered by the node tunnel: CoreDNS does not know them.
func TestServiceEntryNamesResolve(t *testing.T) {
	r := start(t)
	outside := r.outside()
	r.apply(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: book, namespace: shop}
spec:
  hosts: [books.example.com]
  location: MESH_EXTERNAL
  resolution: STATIC
  endpoints: [{address: ` + outside + `}]
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8081}]
`)
	r.eventually("books.example.com", 10*time.Second, func() error {
		return r.reaches("shop", "deploy/client", "http://books.example.com/", "pod: outside")
	})
	if err := r.reaches("plain", "deploy/client", "http://books.example.com/", ""); err == nil {
		t.Error("outside the mesh the name is known, too")
	}
}

// A pod has the resolv.conf that its spec asks for, and what the mesh does not know is
// asked of the server there; what it knows is known to the pod all the same.
func TestThePodsOwnServerIsAsked(t *testing.T) {
	r := start(t)
	r.outside()
	asked := r.resolver()
	r.apply(`apiVersion: v1
kind: Pod
metadata: {name: own-dns, namespace: shop, labels: {app: own-dns}}
spec:
  nodeSelector: {kubernetes.io/hostname: n1}
  terminationGracePeriodSeconds: 1
  dnsPolicy: None
  dnsConfig: {nameservers: [` + cluster.Outside + `], searches: [shop.svc.cluster.local]}
  containers: [{name: app, image: localhost/waystone/app:e2e, imagePullPolicy: Never, args: [sleep]}]
`)
	p := r.pod("shop", "app=own-dns")
	r.redirected(p, "enabled")
	r.eventually("a name that only the pod's server knows", 10*time.Second, func() error {
		return r.reaches("shop", "pod/own-dns", "http://only-there.example:8081/", "pod: outside")
	})
	select {
	case who := <-asked:
		if who != p.IP.String() {
			t.Errorf("the server was asked by %s, want the pod, %s", who, p.IP)
		}
	default:
		t.Error("the server was not asked")
	}
	if err := r.reaches("shop", "pod/own-dns", "http://echo/", "pod: echo-"); err != nil {
		t.Error(err)
	}
	if err := r.reaches("shop", "deploy/client", "http://only-there.example:8081/", ""); err == nil {
		t.Error("a pod with the cluster's resolv.conf knows the name, too")
	}
}

// resolver runs a DNS server on this machine that knows every name of .example, and
// tells who asks.
func (r *rig) resolver() <-chan string {
	r.t.Helper()
	asked := make(chan string, 100)
	h := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		switch question := q.Question[0]; {
		case !strings.HasSuffix(question.Name, ".example."):
			m.Rcode = dns.RcodeNameError
		case question.Qtype == dns.TypeA:
			who, _, _ := net.SplitHostPort(w.RemoteAddr().String())
			asked <- who
			m.Answer = append(m.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: question.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1},
				A:   net.ParseIP(cluster.Outside),
			})
		}
		_ = w.WriteMsg(m)
	})
	c, err := net.ListenPacket("udp", net.JoinHostPort(cluster.Outside, "53"))
	if err != nil {
		r.t.Fatal(err)
	}
	s := &dns.Server{PacketConn: c, Handler: h}
	go s.ActivateAndServe()
	r.t.Cleanup(func() { c.Close() })
	return asked
}

// reaches has a pod's program get a page, of which part is to be in it.
func (r *rig) reaches(namespace, pod, url, part string) error {
	out, err := r.Kubectl(r.ctx, "", "-n", namespace, "exec", pod, "--", "curl", "-s", url)
	if err == nil && !strings.Contains(out, part) {
		err = fmt.Errorf("%q", out)
	}
	return err
}
