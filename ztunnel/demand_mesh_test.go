package ztunnel_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/ztunnel"
)

// Each connection to an endpoint that is known by its name is counted, whether the
// name was asked for anew or not, and whether there was an answer.
func TestLookupsOfEndpointsAreCounted(t *testing.T) {
	f := newFabric(t)
	byName := func(host string) func(*mesh.Workload) {
		return func(w *mesh.Workload) { w.Hostname, w.Tunnel = host, mesh.Plain }
	}
	n := f.node("node-a", func(o *ztunnel.Options) {
		o.Resolve = func(_ context.Context, host string) ([]netip.Addr, error) {
			if host == "db.example.com" {
				return []netip.Addr{netip.MustParseAddr("192.0.2.7")}, nil
			}
			return nil, errors.New("no such host")
		}
	}, []config.Resource{
		aPod("web", "10.0.0.1", "node-a", nil),
		aPod("db", "", "", byName("db.example.com"), "db"), aPod("gone", "", "", byName("gone.example.com"), "gone"),
		aService("db", "10.9.0.1", "", nil), aService("gone", "10.9.0.2", "", nil),
	}...)
	f.serve("192.0.2.7:8080", echo)
	for range 3 {
		nc := f.connect("10.0.0.1", "10.9.0.1:80")
		wantEcho(t, nc)
		nc.Close()
	}
	f.wantRefused("10.0.0.1", "10.9.0.2:80")
	for host, want := range map[string]float64{"db.example.com": 3, "gone.example.com": 1} {
		if got := n.metric("istio_on_demand_dns_total", map[string]string{"hostname": host, "source_workload": "web"}); got != want {
			t.Errorf("%s: counted %v, want %v", host, got, want)
		}
	}
}
