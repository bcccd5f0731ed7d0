package manifest

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
)

const bookinfo = "../../examples/bookinfo"

// decodeExample reads a file in which everything has to be right.
func decodeExample(t *testing.T, name string) []*Object {
	t.Helper()
	f := Decode(name, readFile(t, name))
	for _, e := range f.Errors {
		t.Error(e)
	}
	for _, u := range f.Unknown {
		t.Errorf("%s:%d: %s is not read", u.File, u.Line, u.Kind)
	}
	for _, o := range f.Objects {
		if o.Err != nil {
			t.Error(o.Err)
		}
	}
	return f.Objects
}

func TestExamplesAreValid(t *testing.T) {
	names, _ := filepath.Glob("../../examples/*/*.yaml")
	if len(names) < 15 {
		t.Fatalf("only %d examples", len(names))
	}
	where := map[mesh.Key]string{}
	for _, name := range names {
		for _, o := range decodeExample(t, name) {
			// l4-policy.yaml and l7-policy.yaml are two versions of one object.
			if other, twice := where[o.Key]; twice && o.Key.Name != "productpage-viewer" {
				t.Errorf("%s is in %s and %s", o.Key, other, name)
			}
			where[o.Key] = name
		}
	}
}

// A walk goes through the steps of the walk-through.
type walk struct {
	*testing.T
	x *Index
}

func (w walk) step(names ...string) {
	w.Helper()
	for _, name := range names {
		for _, o := range decodeExample(w.T, filepath.Join(bookinfo, name)) {
			w.x.Set(o)
		}
	}
}

func (w walk) workload(name string) *mesh.Workload {
	w.Helper()
	out, _ := w.x.resources[mesh.Key{Kind: "Workload", Name: "Kubernetes//Pod/default/" + name}].(*mesh.Workload)
	if out == nil {
		w.Fatalf("no workload %s", name)
	}
	return out
}

func (w walk) service(name string) *mesh.Service {
	w.Helper()
	out, _ := w.x.resources[mesh.Key{Kind: "Service", Namespace: "default", Name: name + ".default.svc.cluster.local"}].(*mesh.Service)
	if out == nil {
		w.Fatalf("no service %s", name)
	}
	return out
}

func (w walk) waypoint(what string, a *mesh.GatewayAddress, want string) {
	w.Helper()
	got := ""
	if a != nil {
		got = a.Address.IP.String()
	}
	if got != want {
		w.Errorf("%s has the waypoint %q, want %q", what, got, want)
	}
}

func TestWalkThrough(t *testing.T) {
	w := walk{t, NewIndex(Options{ByLabel: true})}
	w.step("00-mesh.yaml", "01-bookinfo.yaml", "bookinfo-gateway.yaml")
	if got := w.workload("productpage-v1"); got.Tunnel != mesh.Plain || got.Unhealthy || got.Locality.Zone != "zone-1" {
		t.Errorf("got %s", render(got))
	}
	in := w.x.Ingress(mesh.Key{Kind: "Gateway", Namespace: "default", Name: "bookinfo-gateway"})
	if in == nil || len(in.Routes) != 1 || len(in.Routes[0].Route.Rules[0].Matches) != 5 || in.Routes[0].Route.Rules[0].Backends[0].Invalid != "" {
		t.Errorf("ingress: %s", render(in))
	}

	w.step("ambient-namespace.yaml")
	for _, name := range []string{"productpage-v1", "sleep", "notsleep", "reviews-v3"} {
		if got := w.workload(name); got.Tunnel != mesh.HBONE {
			t.Errorf("got %s", render(got))
		}
	}

	w.step("l4-policy.yaml")
	viewer := mesh.Key{Kind: authz.Kind, Namespace: "default", Name: "productpage-viewer"}
	if got := w.workload("productpage-v1").Policies; !slices.Equal(got, []mesh.Key{viewer}) {
		t.Errorf("productpage lists %v", got)
	}

	w.step("waypoint.yaml", "l7-policy.yaml")
	w.waypoint("service productpage", w.service("productpage").Waypoint, "127.244.1.50")
	w.waypoint("workload productpage", w.workload("productpage-v1").Waypoint, "127.244.1.50")
	w.waypoint("service details", w.service("details").Waypoint, "")
	if got := w.workload("productpage-v1").Policies; len(got) != 0 {
		t.Errorf("productpage lists %v", got)
	}
	own := w.workload("bookinfo-productpage-istio-waypoint")
	if own.IsWaypointFor == nil || own.Tunnel != mesh.Plain || own.Waypoint != nil || len(own.Policies) != 0 {
		t.Errorf("got %s", render(own))
	}

	w.step("reviews-waypoint.yaml", "reviews-split.yaml")
	w.waypoint("service reviews", w.service("reviews").Waypoint, "127.244.2.50")
	w.waypoint("service reviews-v2", w.service("reviews-v2").Waypoint, "127.244.2.50")
	route, _ := w.x.resources[mesh.Key{Kind: "HTTPRoute", Namespace: "default", Name: "reviews"}].(*routing.Route)
	if _, err := routing.Compile(route); err != nil || route.Rules[0].Backends[0].Invalid != "" {
		t.Errorf("got %s, %v", render(route), err)
	}

	// And out again.
	for _, name := range []string{"l7-policy.yaml", "waypoint.yaml", "ambient-namespace.yaml"} {
		for _, o := range decodeExample(t, filepath.Join(bookinfo, name)) {
			w.x.Delete(o.Key)
		}
	}
	w.waypoint("service productpage", w.service("productpage").Waypoint, "")
	if got := w.workload("productpage-v1"); got.Tunnel != mesh.Plain || got.Waypoint != nil {
		t.Errorf("got %s", render(got))
	}
}
