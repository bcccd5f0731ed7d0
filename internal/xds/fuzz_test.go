package xds

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/xds/workloadapi"
)

// seeds adds the resources of a real istiod's dump, and parts of them.
func seeds(f *testing.F, file string, make func() proto.Message) {
	type entry struct {
		Name     string
		Resource json.RawMessage
	}
	for _, e := range readJSON[[]entry](f, file) {
		wire := wireOf(f, e.Resource, make())
		f.Add(e.Name, wire)
		f.Add(e.Name, wire[:len(wire)/2])
	}
	f.Add("", []byte{})
	f.Add("default/x", []byte{0xff})
}

// Whatever comes, an update has a key, a value that is of it or an error, and
// the store takes it or says why not. What protobuf can read is read as it reads it.
func FuzzAddress(f *testing.F) {
	seeds(f, "testdata/istiod/Address.json", func() proto.Message { return new(workloadapi.Address) })
	f.Fuzz(func(t *testing.T, name string, wire []byte) {
		var c converter
		u := c.address(name, wire)
		checkUpdate(t, u, name)
		var a workloadapi.Address
		if proto.Unmarshal(wire, &a) == nil { // else some of what is wrong is in fields that are of no use here
			if w := a.GetWorkload(); w != nil {
				checkWorkload(t, u, name, w)
			} else if _, ok := u.Value.(*mesh.Workload); ok {
				t.Fatalf("got a workload, want %v", &a)
			}
		}
		again := c.address(name, wire) // what is shared by now is the same
		if !reflect.DeepEqual(u.Value, again.Value) {
			t.Errorf("got %+v, and then %+v", u.Value, again.Value)
		}
	})
}

// And of a policy the verdicts are those of Istio's node tunnel.
func FuzzAuthorization(f *testing.F) {
	seeds(f, "testdata/istiod/Authorization.json", func() proto.Message { return new(workloadapi.Authorization) })
	d := dice{rand.New(rand.NewPCG(1, 1))}
	for range 100 {
		wire, err := proto.Marshal(d.authorization())
		if err != nil {
			f.Fatal(err)
		}
		f.Add("a/p", wire)
	}
	f.Fuzz(func(t *testing.T, name string, wire []byte) {
		c := converter{root: "istio-system"}
		u := c.authorization(name, wire)
		checkUpdate(t, u, name)
		if u.Err != nil {
			return
		}
		var a workloadapi.Authorization
		if err := proto.Unmarshal(wire, &a); err != nil {
			t.Fatal(err)
		}
		set, err := authz.Compile(asIstio, u.Value.(*authz.Policy))
		if err != nil {
			t.Fatalf("%v: %v", err, &a)
		}
		d := dice{rand.New(rand.NewPCG(uint64(len(wire)), 2))}
		for range 10 {
			in := d.input()
			if ids := identities(&a); len(ids) > 0 && d.IntN(2) == 0 {
				in.Peer.Namespace = of(d, ids...)
			}
			if a.DryRun {
				continue
			}
			if want := matches(&a, in) != (a.Action == workloadapi.Action_DENY); set.Check(in).Allowed != want {
				t.Fatalf("%v: got %t, want %t: %v", in, !want, want, &a)
			}
		}
	})
}

// identities returns namespaces that a asks for, and that a SPIFFE ID can have.
func identities(a *workloadapi.Authorization) (out []string) {
	for _, g := range a.Groups {
		for _, r := range g.Rules {
			for _, m := range r.Matches {
				for _, v := range slices.Concat(m.Namespaces, m.NotNamespaces) {
					if e := v.GetExact(); e != "" && len(e) < 20 && !slices.ContainsFunc([]byte(e), func(c byte) bool { return c < 'a' || c > 'z' }) {
						out = append(out, e)
					}
				}
			}
		}
	}
	return out
}

func checkUpdate(t *testing.T, u config.Update, name string) {
	t.Helper()
	if u.Key == (mesh.Key{}) || u.Err == nil && (u.Value == nil || u.Value.Key() != u.Key) {
		t.Fatalf("got %+v", u)
	}
	if u.Err == nil && nameOf(u.Key) != name {
		t.Fatalf("the name of %v is %q, want %q", u.Key, nameOf(u.Key), name)
	}
	store := config.NewStore(config.Options{})
	if err := store.Apply([]config.Update{u}); (err != nil) != (len(store.Rejected()) == 1) {
		t.Fatalf("%v: rejected %v", err, store.Rejected())
	}
	_ = store.Apply([]config.Update{{Key: u.Key}})
	if got := store.Rejected(); len(got) != 0 {
		t.Fatalf("rejected after it went: %v", got)
	}
}
