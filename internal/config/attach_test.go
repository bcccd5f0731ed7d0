package config

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
)

// denies reports whether the policies of a Destination refuse clients of the
// namespace "bad", which is what policy's policies do, and nobody else.
func denies(t *testing.T, d *Destination) bool {
	t.Helper()
	if d == nil {
		t.Fatal("no destination")
	}
	if got := verdict(d, "good"); got != "allowed" {
		t.Errorf("%s: a good client is refused: %s", name(d), got)
	}
	return verdict(d, "bad") != "allowed"
}

func TestPoliciesAttachToWhatAWaypointServes(t *testing.T) {
	entry := served("default/entry", "10.1.0.2")
	entry.Hostname, entry.Canonical = "api.example.com", false
	account := gateway()
	account.ServiceAccount = "productpage"
	own := gateway()
	own.Class = "waystone"
	selector := func(name string, labels ...string) *authz.Policy {
		p := policy(name)
		p.Selector = map[string]string{}
		for _, l := range labels {
			k, v, _ := strings.Cut(l, "=")
			p.Selector[k] = v
		}
		return p
	}
	const byName = "istio.io/gateway-name=waypoint"
	for _, tt := range []struct {
		name   string
		policy *authz.Policy
		gw     *Gateway
		compat bool
		on     string // of: items entry other pod
	}{
		{"its Service", policy("default/p", ref("Service", "items")), gateway(), false, "items"},
		{"a Service of another namespace", policy("else/p", ref("Service", "items")), gateway(), false, ""},
		{"a Service elsewhere", policy("other/p", ref("Service", "svc")), gateway(), false, "other"},
		{"a ServiceEntry", policy("default/p", ref("ServiceEntry", "entry")), gateway(), false, "entry"},
		{"a Service that is a ServiceEntry", policy("default/p", ref("Service", "entry")), gateway(), false, ""},
		{"a ServiceEntry that is a Service", policy("default/p", ref("ServiceEntry", "items")), gateway(), false, ""},
		{"two", policy("default/p", ref("Service", "items"), ref("ServiceEntry", "entry")), gateway(), false, "items entry"},
		{"the Gateway", policy("default/p", ref("Gateway", "waypoint")), gateway(), false, "items entry other pod"},
		{"the Gateway, before it is known", policy("default/p", ref("Gateway", "waypoint")), nil, false, "items entry other"},
		{"another Gateway", policy("default/p", ref("Gateway", "another")), gateway(), false, ""},
		{"a Gateway of that name elsewhere", policy("other/p", ref("Gateway", "waypoint")), gateway(), false, ""},
		{"the class", policy("istio-system/p", ref("GatewayClass", "istio-waypoint")), gateway(), false, "items entry other pod"},
		{"its own class", policy("istio-system/p", ref("GatewayClass", "waystone")), own, false, "items entry other pod"},
		{"another class", policy("istio-system/p", ref("GatewayClass", "waystone")), gateway(), false, ""},
		{"no target", policy("default/p"), gateway(), false, ""},
		{"no target, in the root namespace", policy("istio-system/p"), gateway(), false, ""},
		{"a selector", selector("default/p", "app=items"), gateway(), false, ""},
		{"the waypoint's name", selector("default/p", byName), gateway(), false, ""},
		{"the waypoint's name, of a service account", selector("default/p", byName), account, false, "items entry other pod"},
		{"the waypoint's name, as in 1.18", selector("default/p", byName), gateway(), true, "items entry other pod"},
		{"the waypoint's name, from elsewhere", selector("other/p", byName), account, true, ""},
		{"the waypoint's name, from the root namespace", selector("istio-system/p", byName), account, false, "items entry other pod"},
		{"another's name", selector("default/p", "istio.io/gateway-name=another"), account, true, ""},
		{"more than the waypoint's name", selector("default/p", byName, "app=items"), account, true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := NewStore(Options{Gateway: ourGateway, Compat118: tt.compat})
			w := pod("default/web", "10.0.0.1")
			w.Waypoint = &mesh.GatewayAddress{Address: mesh.Address{IP: netip.MustParseAddr("10.1.0.9")}}
			apply(t, s, served("default/items", "10.1.0.1"), entry, served("other/svc", "10.1.0.3"), w, svc("default/waypoint", "10.1.0.9"))
			if tt.gw != nil {
				apply(t, s, tt.gw)
			}
			if err := s.Apply(updates(tt.policy)); err != nil && tt.policy.Namespace != "else" {
				t.Fatal(err)
			}
			check := func(when, on string) {
				t.Helper()
				for which, authority := range map[string]string{"items": "10.1.0.1:80", "entry": "10.1.0.2:80", "other": "10.1.0.3:80", "pod": "10.0.0.1:80"} {
					d := lookup(t, s, "default", authority)
					if !d.Attached {
						if tt.gw != nil {
							t.Errorf("%s is not attached", which)
						}
						continue // the pod, before an address is known to be ours
					}
					if got, want := denies(t, d), strings.Contains(on, which); got != want {
						t.Errorf("%s, %s: denies %v, want %v", when, which, got, want)
					}
				}
			}
			check("applied", tt.on)
			remove(t, s, tt.policy)
			check("removed", "")
		})
	}
}

func TestAttached(t *testing.T) {
	byHost := &mesh.GatewayAddress{Hostname: host("default/waypoint")}
	at := func(ip string) *mesh.GatewayAddress {
		return &mesh.GatewayAddress{Address: mesh.Address{IP: netip.MustParseAddr(ip)}, Port: 15008}
	}
	declared := func(as ...*mesh.GatewayAddress) *Gateway {
		g := &Gateway{Namespace: "default", Name: "waypoint"}
		for _, a := range as {
			g.Addresses = append(g.Addresses, *a)
		}
		return g
	}
	wp := pod("default/wp-1", "10.0.0.9", "default/waypoint")
	wp.IsWaypointFor = &ourGateway
	for _, tt := range []struct {
		name     string
		waypoint *mesh.GatewayAddress
		also     []Resource
		want     bool
	}{
		{"none", nil, []Resource{gateway()}, false},
		{"by host, declared", byHost, []Resource{gateway()}, true},
		{"by host, undeclared", byHost, nil, true},
		{"by host, of another", &mesh.GatewayAddress{Hostname: host("default/another")}, nil, false},
		{"by host, of that name elsewhere", &mesh.GatewayAddress{Hostname: host("other/waypoint")}, nil, false},
		{"by host, declared as another", byHost, []Resource{declared(at("10.9.9.9"))}, false},
		{"by address, declared", at("10.1.0.9"), []Resource{declared(at("10.1.0.9"))}, true},
		{"by address, declared by host", at("10.1.0.9"), []Resource{gateway(), svc("default/waypoint", "10.1.0.9")}, true},
		{"by host, declared by address", byHost, []Resource{declared(at("10.1.0.9")), svc("default/waypoint", "10.1.0.9")}, true},
		{"by address, undeclared", at("10.1.0.9"), []Resource{svc("default/waypoint", "10.1.0.9")}, false},
		{"by address, where our pods are behind", at("10.1.0.9"), []Resource{svc("default/waypoint", "10.1.0.9"), wp}, true},
		{"by the address of a pod of ours", at("10.0.0.9"), []Resource{wp}, true},
		{"by the address of a pod of another's", at("10.0.0.8"), []Resource{pod("default/x", "10.0.0.8"), gateway()}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			service, workload := svc("default/items", "10.1.0.1"), pod("default/web", "10.0.0.1")
			service.Waypoint, workload.Waypoint = tt.waypoint, tt.waypoint
			s := waypointStore()
			check := func(when string, want bool) {
				t.Helper()
				for _, authority := range []string{"10.1.0.1:80", "10.0.0.1:80"} {
					d := lookup(t, s, "default", authority)
					if d.Attached != want {
						t.Errorf("%s, %s: attached %v, want %v", when, name(d), d.Attached, want)
					}
					if !want && !strings.Contains(verdict(d, "good"), "not_attached") {
						t.Errorf("%s, %s: not attached, and lets through: %s", when, name(d), verdict(d, "good"))
					}
				}
			}
			apply(t, s, service, workload)
			apply(t, s, tt.also...) // in whatever order they come
			check("in the end", tt.want)
			for _, r := range tt.also {
				remove(t, s, r)
			}
			check("with the rest gone", tt.waypoint != nil && tt.waypoint.Hostname == byHost.Hostname)
		})
	}
}

func TestAttachedByAShare(t *testing.T) {
	s := waypointStore()
	canary := svc("default/items", "10.1.0.1")
	canary.Waypoint = &mesh.GatewayAddress{Hostname: host("default/stable")}
	canary.Canary = []mesh.WeightedWaypoint{{Waypoint: mesh.GatewayAddress{Hostname: host("default/waypoint")}, Weight: 10}}
	apply(t, s, canary, gateway())
	if d := lookup(t, s, "default", "10.1.0.1:80"); !d.Attached {
		t.Error("a service of whose traffic we have a share is not attached")
	}
}

func TestPoliciesOfTheNodeTunnel(t *testing.T) {
	selected := policy("default/selected")
	selected.Selector = map[string]string{"app": "web"}
	for _, tt := range []struct {
		name   string
		policy *authz.Policy
		on     string // of: web plain other
	}{
		{"the whole mesh", policy("istio-system/p"), "web plain other"},
		{"its namespace", policy("default/p"), "web plain"},
		{"another namespace", policy("other/p"), "other"},
		{"those that list it", selected, "web"},
		{"a target", policy("default/p", ref("Service", "items")), ""},
		{"a class", policy("istio-system/p", ref("GatewayClass", "istio-waypoint")), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := NewStore(Options{})
			web := pod("default/web", "10.0.0.1", "default/items")
			web.Policies = []mesh.Key{selected.Key(), {Kind: authz.Kind, Namespace: "default", Name: "unknown"}}
			apply(t, s, tt.policy, web, pod("default/plain", "10.0.0.2"), pod("other/other", "10.0.0.3"), svc("default/items", "10.1.0.1"))
			for which, ip := range map[string]string{"web": "10.0.0.1", "plain": "10.0.0.2", "other": "10.0.0.3"} {
				d := s.Snapshot().WorkloadAt("", netip.MustParseAddr(ip))
				if got, want := denies(t, d), strings.Contains(tt.on, which); got != want {
					t.Errorf("%s: denies %v, want %v", which, got, want)
				}
			}
			if d := lookup(t, s, "default", "10.1.0.1:80"); d.Policies != nil || d.Attached {
				t.Error("a service has policies or is attached in the node tunnel's view")
			}
		})
	}
}

func TestPolicyListedLaterTakesEffect(t *testing.T) {
	s := NewStore(Options{})
	p := policy("default/p")
	p.Selector = map[string]string{"app": "web"}
	web := pod("default/web", "10.0.0.1")
	apply(t, s, p, web)
	if denies(t, lookup(t, s, "", "10.0.0.1:80")) {
		t.Error("a policy that the workload does not list denies")
	}
	labelled := *web
	labelled.Policies = []mesh.Key{p.Key()}
	apply(t, s, &labelled)
	if !denies(t, lookup(t, s, "", "10.0.0.1:80")) {
		t.Error("a policy that the workload lists does not deny")
	}
}

func TestRoutesOfProducersApply(t *testing.T) {
	two := served("other/items", "10.1.0.1")
	two.Ports = append(two.Ports, mesh.Port{Name: "admin", Service: 81, Target: 8081})
	whole := routing.Parent{Service: host("other/items")}
	for _, tt := range []struct {
		name, route string
		parent      routing.Parent
		want        string // the names of the rules on ports 80 and 81
	}{
		{"of the service's namespace", "other/r", whole, "other/r other/r"},
		{"of the waypoint's namespace", "default/r", whole, "default/r default/r"},
		{"of a consumer", "third/r", whole, "default default"},
		{"of one port", "other/r", routing80("other/items"), "other/r default"},
		{"of a named port", "other/r", routing.Parent{Service: host("other/items"), Section: "admin"}, "default other/r"},
		{"of another service", "other/r", routing80("other/else"), "default default"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := waypointStore()
			r := route(tt.route, tt.parent)
			apply(t, s, r, two, gateway())
			rules := func() string {
				return rule(t, lookup(t, s, "", "10.1.0.1:80")) + " " + rule(t, lookup(t, s, "", "10.1.0.1:81"))
			}
			if got := rules(); got != tt.want {
				t.Errorf("rules %q, want %q", got, tt.want)
			}
			remove(t, s, r)
			if got := rules(); got != "default default" {
				t.Errorf("without the route: rules %q", got)
			}
		})
	}
}
