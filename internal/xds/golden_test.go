package xds

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/manifest"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/xds/workloadapi"
)

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readJSON[T any](t testing.TB, name string) (out T) {
	t.Helper()
	if err := json.Unmarshal(readFile(t, name), &out); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return out
}

// wireOf reads a message as istiod's JSON has it, and returns it as on the wire.
func wireOf(t testing.TB, text []byte, m proto.Message) []byte {
	t.Helper()
	if err := protojson.Unmarshal(text, m); err != nil { // which refuses what m does not have
		t.Fatalf("%v: %s", err, text)
	}
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// nameOfAddress returns the name that istiod gives a.
func nameOfAddress(a *workloadapi.Address) string {
	if w := a.GetWorkload(); w != nil {
		return w.Uid
	}
	return a.GetService().GetNamespace() + "/" + a.GetService().GetHostname()
}

// manifests returns what package manifest makes of the manifests that istiod was
// given.
func manifests(t *testing.T) map[mesh.Key]config.Resource {
	t.Helper()
	x := manifest.NewIndex(manifest.Options{ByLabel: true})
	const dir = "../manifest/testdata/istiod/"
	for _, o := range manifest.Decode("manifests.yaml", readFile(t, dir+"manifests.yaml")).Objects {
		x.Set(o)
	}
	return x.Resources()
}

// What istiod says of manifests is what we read in them, but for what is listed
// here.
func TestEqualsManifests(t *testing.T) {
	want := manifests(t)
	c := converter{root: "istio-system"}
	services, workloads := 0, 0
	for _, text := range readJSON[[]json.RawMessage](t, "../manifest/testdata/istiod/address.json") {
		var a workloadapi.Address
		wire := wireOf(t, text, &a)
		u := c.address(nameOfAddress(&a), wire)
		if u.Err != nil {
			t.Errorf("%s: %v", u.Key, u.Err)
			continue
		}
		switch got := u.Value.(type) {
		case *mesh.Service:
			services++
			sameService(t, got, want[u.Key])
		case *mesh.Workload:
			workloads++
			sameWorkload(t, got, want)
		}
	}
	if services < 14 || workloads < 17 {
		t.Errorf("compared %d services and %d workloads", services, workloads)
	}
}

func sameService(t *testing.T, got *mesh.Service, other config.Resource) {
	t.Helper()
	want, ok := other.(*mesh.Service)
	if !ok {
		t.Errorf("no manifest of %s", got.Key())
		return
	}
	w := *want
	w.Ports = slices.Clone(w.Ports)
	for i := range w.Ports {
		w.Ports[i].Name = "" // istiod does not tell names of ports
	}
	if !reflect.DeepEqual(*got, w) {
		t.Errorf("%s:\ngot  %+v\nwant %+v", got.Key(), *got, w)
	}
}

func sameWorkload(t *testing.T, got *mesh.Workload, all map[mesh.Key]config.Resource) {
	t.Helper()
	want, ok := all[got.Key()].(*mesh.Workload)
	if !ok {
		t.Errorf("no manifest of %s", got.Key())
		return
	}
	g, w := *got, *want
	if w.IsWaypointFor != nil { // istiod leaves it to waypoints to know their own
		w.IsWaypointFor, w.NativeTunnel = nil, false
	}
	// istiod says of every port where the workload listens; manifests, where it is
	// not the same for all of a service.
	for host := range w.Services {
		s, _ := all[mesh.Key{Kind: "Service", Namespace: host.Namespace, Name: host.Host}].(*mesh.Service)
		for i := range s.Ports {
			p := s.Ports[i].Service
			if a, b := s.TargetPort(got, p), s.TargetPort(want, p); a != b {
				t.Errorf("%s: %s:%d is %d, want %d", g.UID, host, p, a, b)
			}
		}
	}
	if len(g.Services) != len(w.Services) {
		t.Errorf("%s: services: got %v, want %v", g.UID, g.Services, w.Services)
	}
	g.Services, w.Services = nil, nil
	if !reflect.DeepEqual(g, w) {
		t.Errorf("%s:\ngot  %+v\nwant %+v", got.Key(), g, w)
	}
}

// Policies come from istiod without what only a waypoint can see, and with the
// workloads that they select in these. What is left is as written, and says the
// same.
func TestPoliciesEqualManifests(t *testing.T) {
	all := manifests(t)
	c := converter{root: "istio-system"}
	d := dice{rand.New(rand.NewPCG(7, 8))}
	for _, text := range readJSON[[]json.RawMessage](t, "../manifest/testdata/istiod/authorization.json") {
		var a workloadapi.Authorization
		wire := wireOf(t, text, &a)
		u := c.authorization(a.Namespace+"/"+a.Name, wire)
		want, ok := all[u.Key].(*authz.Policy)
		if u.Err != nil || !ok {
			t.Errorf("%s: %v, in manifests: %t", u.Key, u.Err, ok)
			continue
		}
		got := u.Value.(*authz.Policy)
		g, w := *got, *want
		if (g.Selector == nil) != (w.Selector == nil) {
			t.Errorf("%s: selector: got %v, want %v", u.Key, g.Selector, w.Selector)
		}
		g.Selector, w.Selector = nil, nil
		if w.Rules = slices.DeleteFunc(slices.Clone(w.Rules), ofHTTP); len(w.Rules) == 0 {
			w.Rules = nil
		}
		if !reflect.DeepEqual(g, w) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", u.Key, g, w)
		}
		mine, err := authz.Compile(asIstio, got)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := authz.Compile(asIstio, want)
		if err != nil {
			t.Fatal(err)
		}
		for range 2000 {
			in := d.input()
			in.Peer.Namespace = of(d, "bookinfo", "default")
			in.Peer.ServiceAccount = of(d, "waypoint", "bookinfo-reviews", "sleep")
			if g, w := mine.Check(in), theirs.Check(in); g.Allowed != w.Allowed {
				t.Fatalf("%s: %v to %v: got %t, want %t", u.Key, in.Peer, in.Dest, g.Allowed, w.Allowed)
			}
		}
	}
}

// ofHTTP reports whether a rule asks for what is HTTP's.
func ofHTTP(r authz.Rule) bool {
	return slices.ContainsFunc(r.To, func(o authz.Operation) bool {
		return len(o.Hosts)+len(o.NotHosts)+len(o.Methods)+len(o.NotMethods)+len(o.Paths)+len(o.NotPaths) > 0
	})
}

// Everything that a real istiod has sent is of use, kinds that manifests are not
// read for among it.
func TestAllOfADumpIsTaken(t *testing.T) {
	type entry struct {
		Name     string
		Resource json.RawMessage
	}
	c := converter{root: "istio-system"}
	store := config.NewStore(config.Options{})
	var updates []config.Update
	for _, e := range readJSON[[]entry](t, "testdata/istiod/Address.json") {
		updates = append(updates, c.address(e.Name, wireOf(t, e.Resource, new(workloadapi.Address))))
	}
	for _, e := range readJSON[[]entry](t, "testdata/istiod/Authorization.json") {
		updates = append(updates, c.authorization(e.Name, wireOf(t, e.Resource, new(workloadapi.Authorization))))
	}
	if err := store.Apply(updates); err != nil || len(updates) < 50 {
		t.Fatalf("%d updates: %v", len(updates), err)
	}
	snap := store.Snapshot()
	lookup := func(authority string) *config.Destination {
		a, err := mesh.ParseAuthority(authority)
		if err != nil {
			t.Fatal(err)
		}
		return snap.Lookup("", "default", a)
	}
	if d := lookup("httpbin.example.com:80"); d == nil || d.Service == nil {
		t.Errorf("the ServiceEntry: got %+v", d)
	}
	d := lookup("reviews.bookinfo.svc.cluster.local:9080")
	if d == nil || len(d.Endpoints) != 3 || d.Service.Waypoint == nil || d.Service.Waypoint.Hostname.Host != "waypoint.bookinfo.svc.cluster.local" {
		t.Errorf("reviews: got %+v", d)
	}
}
