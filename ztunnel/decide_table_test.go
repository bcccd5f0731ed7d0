package ztunnel

import (
	"fmt"
	"testing"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// networks is the bookshop of a mesh of two networks. east is ours; in west there
// are services, and a gateway to them that is known here by name and by address.
func networks(t *testing.T) *world {
	w := newWorld(t)
	plain := func(p *mesh.Workload) { p.Tunnel = mesh.Plain }
	byName := func(p *mesh.Workload) {
		p.Network = "west"
		p.Gateway = &mesh.GatewayAddress{Hostname: host("default", "gateway"), Port: 15008}
	}
	byAddress := func(p *mesh.Workload) { p.Network, p.Gateway = "west", at("10.0.0.41") }
	sans := func(names ...string) func(*mesh.Service) {
		return func(s *mesh.Service) {
			for _, n := range names {
				s.SANs = append(s.SANs, "spiffe://cluster.local/ns/default/sa/"+n)
			}
		}
	}
	guardedBy := func(name string) func(*mesh.Service) {
		return func(s *mesh.Service) {
			s.Waypoint = &mesh.GatewayAddress{Hostname: host("default", name), Port: 15008}
		}
	}
	hboneOnly := func(s *mesh.Service) { s.Ports = []mesh.Port{{Service: 15008, Target: 15008}} }

	w.pod("web", "10.0.0.1", nil)
	w.pod("items", "10.0.0.10", nil, "items", "guarded", "headless")
	w.pod("old", "10.0.0.11", plain, "old", "oldguarded")
	w.pod("behind", "10.0.0.12", func(p *mesh.Workload) { p.Waypoint = at("10.0.0.20") }, "itsbehind")
	w.pod("oldbehind", "10.0.0.13", func(p *mesh.Workload) { p.Waypoint, p.Tunnel = at("10.0.0.20"), mesh.Plain })
	w.pod("waypoint", "10.0.0.20", nil, "waypoint")
	w.pod("gateway", "10.0.0.40", nil, "gateway")
	w.pod("othergateway", "10.0.0.41", nil)
	w.pod("far", "", byName, "far")
	w.pod("farther", "", byAddress, "farther")
	w.pod("unsafe", "", byName, "unsafe")
	w.pod("nogateway", "", func(p *mesh.Workload) { p.Network = "west"; p.Gateway = at("10.0.0.99") }, "nogateway")
	w.pod("farwaypoint", "", byName, "farwaypoint")
	w.pod("cloud", "", func(p *mesh.Workload) { p.Hostname = "lb.cloud.example.com" })
	w.pod("byname", "", func(p *mesh.Workload) {
		p.Network = "west"
		p.Gateway = &mesh.GatewayAddress{Hostname: mesh.Hostname{Namespace: "default", Host: "lb.cloud.example.com"}}
	}, "byname")
	w.pod("alone", "10.0.1.15", func(p *mesh.Workload) { p.Network = "west" })

	w.service("items", "10.9.0.1", nil)
	w.service("old", "10.9.0.2", nil)
	w.service("guarded", "10.9.0.3", guardedBy("waypoint"))
	w.service("oldguarded", "10.9.0.4", guardedBy("waypoint"))
	w.service("itsbehind", "10.9.0.5", nil)
	w.service("headless", "", nil)
	w.service("down", "10.9.0.6", nil)
	w.service("pass", "10.9.0.7", func(s *mesh.Service) { s.Balance.Mode = mesh.Passthrough })
	w.service("waypoint", "10.9.0.20", hboneOnly)
	w.service("gateway", "10.9.0.21", hboneOnly)
	w.service("far", "10.9.0.30", sans("far"))
	w.service("farther", "10.9.0.31", sans("far", "farther"))
	w.service("unsafe", "10.9.0.32", nil)
	w.service("byname", "10.9.0.36", sans("far"))
	w.service("hostguarded", "10.9.0.37", func(s *mesh.Service) {
		s.Waypoint = &mesh.GatewayAddress{Hostname: mesh.Hostname{Namespace: "default", Host: "lb.cloud.example.com"}}
	})
	w.service("nogateway", "10.9.0.33", sans("far"))
	w.service("farguarded", "10.9.0.34", guardedBy("farwaypoint"))
	w.service("farwaypoint", "10.9.0.35", func(s *mesh.Service) { hboneOnly(s); sans("farwaypoint")(s) })
	return w
}

// The outbound decision, row by row as it is documented of Istio's node tunnel.
func TestOutboundDecisionTable(t *testing.T) {
	id := func(names ...string) (s string) {
		for i, n := range names {
			if i > 0 {
				s += ","
			}
			s += "spiffe://cluster.local/ns/default/sa/" + n
		}
		return s
	}
	direct := func(ip, name string, port int) string {
		return fmt.Sprintf("HBONE Direct %s:15008 for %[1]s:%d as %s", ip, port, id(name))
	}
	waypoint := func(authority string) string {
		return "HBONE ToServerWaypoint 10.0.0.20:15008 for " + authority + " as " + id("waypoint")
	}
	w := networks(t)
	d := w.decider()
	for _, row := range []struct{ row, from, target, want string }{
		{"dst loopback AND illegal port: drop (self call)", "web", "127.0.0.1:15001", "the connection is for the node tunnel itself"},
		{"VIP | any | svc waypoint: HBONE to waypoint, authority VIP:port", "web", "10.9.0.3:80", waypoint("10.9.0.3:80")},
		{"VIP | any | svc waypoint: also of what speaks TCP", "web", "10.9.0.4:80", waypoint("10.9.0.4:80")},
		{"VIP | HBONE | no: HBONE to podIP:15008, authority podIP:targetPort", "web", "10.9.0.1:80", direct("10.0.0.10", "items", 8080)},
		{"VIP | HBONE | no | wl waypoint ignored", "web", "10.9.0.5:80", direct("10.0.0.12", "behind", 8080)},
		{"VIP | TCP | no: TCP to podIP:targetPort", "web", "10.9.0.2:80", "TCP Direct 10.0.0.11:8080"},
		{"VIP, no healthy endpoint: reject (not passthrough)", "web", "10.9.0.6:80", "no healthy upstream"},
		{"VIP, port not on service: reject (not passthrough)", "web", "10.9.0.1:81", "the service has no such port"},
		{"VIP, PASSTHROUGH: TCP to original dst", "web", "10.9.0.7:443", "TCP Passthrough 10.9.0.7:443"},
		{"pod IP | HBONE | svc waypoint ignored, no wl waypoint: HBONE direct", "web", "10.0.0.10:8080", direct("10.0.0.10", "items", 8080)},
		{"pod IP | HBONE | wl waypoint: HBONE to waypoint, authority podIP:port", "web", "10.0.0.12:9000", waypoint("10.0.0.12:9000")},
		{"pod IP | TCP | wl waypoint: HBONE to waypoint", "web", "10.0.0.13:9000", waypoint("10.0.0.13:9000")},
		{"pod IP | TCP | no: TCP direct", "web", "10.0.0.11:9000", "TCP Direct 10.0.0.11:9000"},
		{"pod IP, caller is that waypoint: direct (no loop)", "waypoint", "10.0.0.12:9000", direct("10.0.0.12", "behind", 9000)},
		{"unknown IP: TCP passthrough", "web", "192.0.2.1:443", "TCP Passthrough 192.0.2.1:443"},
		{"remote network, VIP: double HBONE via gateway", "web", "10.9.0.30:80",
			"double HBONE 10.0.0.40:15008 for far.default.svc.cluster.local:80 as " + id("gateway") + ", inner as " + id("far")},
		{"... by name", "web", "far:80",
			"double HBONE 10.0.0.40:15008 for far.default.svc.cluster.local:80 as " + id("gateway") + ", inner as " + id("far")},
		{"... whose gateway is named by address", "web", "10.9.0.31:80",
			"double HBONE 10.0.0.41:15008 for farther.default.svc.cluster.local:80 as " + id("othergateway") + ", inner as " + id("far", "farther")},
		{"... whose gateway is a workload known by its host name", "web", "10.9.0.36:80", "Direct by name lb.cloud.example.com port 15008"},
		{"VIP | svc waypoint that is a workload known by its host name", "web", "10.9.0.37:80", "ToServerWaypoint by name lb.cloud.example.com port 15008"},
		{"... waypoint workload on another network: double HBONE via its gateway, authority host:port of the service", "web", "10.9.0.34:80",
			"double HBONE 10.0.0.40:15008 for farguarded.default.svc.cluster.local:80 as " + id("gateway") + ", inner as " + id("farwaypoint")},
		{"... whose gateway is not known", "web", "10.9.0.33:80", "the gateway of the other network is not known, or has no healthy endpoint"},
		{"... expected SANs are only service.subject_alt_names: none accepts nobody", "web", "10.9.0.32:80",
			"the service names no identity (subject_alt_names) to expect in the other network"},
		{"remote network, pod IP: not found in own network, passthrough", "web", "10.0.1.15:80", "TCP Passthrough 10.0.1.15:80"},

		// Beyond: a waypoint's pod that is captured does not go in a circle.
		{"VIP, caller is the service's waypoint: direct", "waypoint", "10.9.0.3:80", direct("10.0.0.10", "items", 8080)},
	} {
		if got := brief(d.decide(w.workloads[row.from], authority(row.target), nil)); got != row.want {
			t.Errorf("%s: %s to %s:\n got %s\nwant %s", row.row, row.from, row.target, got, row.want)
		}
	}
}

// The outbound policy concerns what is not in the registry, and nothing else.
func TestDecideRegistryOnly(t *testing.T) {
	w := networks(t)
	d := w.decider()
	d.registryOnly = true
	const refused = "the destination is not in the registry, and the outbound policy is REGISTRY_ONLY"
	for _, row := range []struct {
		what, target string
		refused      bool
	}{
		{"a pod", "10.0.0.10:8080", false},
		{"a pod outside the mesh", "10.0.0.11:9000", false},
		{"a service", "10.9.0.1:80", false},
		{"a PASSTHROUGH service", "10.9.0.7:443", false},
		{"loopback", "127.0.0.1:8080", false},
		{"IPv6 loopback", "[::1]:8080", false},
		{"an address of nobody's", "192.0.2.1:443", true},
		{"an IPv6 address of nobody's", "[2001:db8::1]:443", true},
		{"the cloud's metadata", "169.254.169.254:80", true},
		{"a pod of another network", "10.0.1.15:80", true},
	} {
		got := brief(d.decide(w.workloads["web"], authority(row.target), nil))
		if (got == refused) != row.refused {
			t.Errorf("%s: got %s", row.what, got)
		}
	}
}

// What cannot be reached by one gateway is, by another, or not at all.
func TestDecideTriesOtherGateways(t *testing.T) {
	w := networks(t)
	second := w.pod("second", "10.0.0.42", nil, "gateway")
	d := w.decider()
	web, far := w.workloads["web"], w.workloads["far"]
	r, err := d.decide(web, authority("10.9.0.30:80"), []*mesh.Workload{w.workloads["gateway"], far})
	if err != nil || r.dest.UID != second.UID || r.beyond.UID != far.UID {
		t.Errorf("got %s, want the second gateway", brief(r, err))
	}
}

// The family of the client's address is that of the endpoint's, where it has both.
func TestDecideKeepsTheFamily(t *testing.T) {
	for _, row := range []struct {
		families mesh.IPFamilies
		vip6     string
	}{
		{mesh.AnyFamily, "[2001:db8::10]"},
		{mesh.DualStack, "[2001:db8::10]"},
		{mesh.IPv4Only, "10.0.0.10"},
	} {
		w := newWorld(t)
		web := w.pod("web", "10.0.0.1", nil)
		w.pod("items", "10.0.0.10", func(p *mesh.Workload) { p.Addresses = append(p.Addresses, ip("2001:db8::10")) }, "items")
		w.service("items", "10.9.0.1", func(s *mesh.Service) {
			s.Addresses = append(s.Addresses, mesh.Prefix{Prefix: singleIP("2001:db8:9::1")})
			s.Families = row.families
		})
		d := w.decider()
		const as = " as spiffe://cluster.local/ns/default/sa/items"
		for target, at := range map[string]string{"10.9.0.1:80": "10.0.0.10", "[2001:db8:9::1]:80": row.vip6} {
			want := "HBONE Direct " + at + ":15008 for " + at + ":8080" + as
			if got := brief(d.decide(web, authority(target), nil)); got != want {
				t.Errorf("%v, %s: got %s, want %s", row.families, target, got, want)
			}
		}
	}
}
