package config

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
)

// bad makes a policy one that does not compile.
func bad(p *authz.Policy) *authz.Policy {
	c := *p
	c.Rules = []authz.Rule{{When: []authz.Condition{{Key: "no.such.key", Values: []string{"x"}}}}}
	return &c
}

func rejections(s *Store) string {
	var out []string
	for _, r := range s.Rejected() {
		line := r.Key.Namespace + "/" + r.Key.Name
		if r.Closed {
			line += " closed"
		}
		out = append(out, line)
	}
	return strings.Join(out, ", ")
}

func TestABadResourceIsRejectedAlone(t *testing.T) {
	s := waypointStore()
	badRoute := route("default/r", routing80("default/items"))
	badRoute.Rules[0].Backends[0].Weight = 1 << 30
	err := s.Apply(updates(served("default/items", "10.1.0.1"), badRoute, &mesh.Workload{}, &mesh.Service{}, route("default/good", routing80("default/items"))))
	if err == nil || strings.Count(err.Error(), "\n") != 2 || !strings.Contains(err.Error(), "HTTPRoute/default/r: spec.rules[0].backendRefs[0].weight") {
		t.Errorf("error %v, want one for each of three", err)
	}
	if got := rule(t, lookup(t, s, "", "10.1.0.1:80")); got != "default/good" {
		t.Errorf("rule %s, want that of the good route", got)
	}
	if n := len(s.Rejected()); n != 3 {
		t.Errorf("%d rejected, want 3", n)
	}
}

func TestTheLastGoodVersionStays(t *testing.T) {
	s := waypointStore()
	p, r := policy("default/p", ref("Service", "items")), route("default/r", routing80("default/items"))
	apply(t, s, served("default/items", "10.1.0.1"), p, r)
	before := lookup(t, s, "", "10.1.0.1:80")

	badRoute := *r
	badRoute.Parents = nil
	if err := s.Apply(updates(bad(p), &badRoute)); err == nil {
		t.Fatal("no error")
	}
	if err := s.Apply([]Update{{Key: mesh.Key{Kind: "Service", Namespace: "default", Name: host("default/items").Host}, Err: errors.New("file.yaml:3: spec.ports: bad")}}); err == nil {
		t.Fatal("no error")
	}
	if got := lookup(t, s, "", "10.1.0.1:80"); got != before {
		t.Error("the destination is another one")
	}
	if got := rejections(s); got != "default/p, default/r, default/items.default.svc.cluster.local" {
		t.Errorf("rejected %q", got)
	}
	apply(t, s, p, r, served("default/items", "10.1.0.1"))
	if got := rejections(s); got != "" || lookup(t, s, "", "10.1.0.1:80") != before {
		t.Errorf("good again: rejected %q", got)
	}
}

func TestAPolicyThatNeverWasGoodFailsItsTargetsClosed(t *testing.T) {
	const closed = "rbac_access_denied_matched_policy[closed:AuthorizationPolicy_default/p_was_rejected]"
	p := policy("default/p", ref("Service", "items"))
	for _, tt := range []struct {
		name                string
		update              Update
		items, other, third string
	}{
		{"by the Store", Update{Value: bad(p)}, closed, "allowed", "allowed"},
		{"by its source", Update{Key: p.Key(), Value: p, Err: errors.New("bad")}, closed, "allowed", "allowed"},
		{"and nothing can be read", Update{Key: p.Key(), Err: errors.New("bad")}, closed, closed, closed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := waypointStore()
			apply(t, s, served("default/items", "10.1.0.1"), served("default/other", "10.1.0.2"), served("third/svc", "10.1.0.3"), policy("default/fine", ref("Service", "items")))
			check := func(want ...string) {
				t.Helper()
				for i, w := range want {
					if got := verdict(lookup(t, s, "", fmt.Sprintf("10.1.0.%d:80", i+1)), "good"); got != w {
						t.Errorf("10.1.0.%d: %s, want %s", i+1, got, w)
					}
				}
			}
			if err := s.Apply([]Update{tt.update}); err == nil {
				t.Fatal("no error")
			}
			check(tt.items, tt.other, tt.third)
			if got := rejections(s); got != "default/p closed" {
				t.Errorf("rejected %q, want default/p closed", got)
			}
			before, since := lookup(t, s, "", "10.1.0.1:80"), s.Rejected()[0].Since
			if err := s.Apply([]Update{tt.update}); err == nil || lookup(t, s, "", "10.1.0.1:80") != before || s.Rejected()[0].Since != since {
				t.Error("rejected again, it is another destination or another rejection")
			}
			apply(t, s, p)
			check("allowed", "allowed", "allowed")
			if err := s.Apply([]Update{tt.update}); err == nil {
				t.Fatal("no error")
			}
			check("allowed", "allowed", "allowed") // its good version stays
			if got := rejections(s); got != "default/p" {
				t.Errorf("rejected %q, want default/p", got)
			}
			remove(t, s, p)
			if err := s.Apply([]Update{tt.update}); err == nil {
				t.Fatal("no error")
			}
			check(tt.items, tt.other, tt.third) // forgotten: it never was good again
			remove(t, s, p)
			check("allowed", "allowed", "allowed")
			if got := rejections(s); got != "" {
				t.Errorf("rejected %q, want none", got)
			}
		})
	}
}

func TestAPolicyThatCannotBeReadClosesTheNodesToo(t *testing.T) {
	s := NewStore(Options{})
	apply(t, s, pod("default/web", "10.0.0.1"), pod("other/web", "10.0.0.2"))
	key := policy("default/p").Key()
	_ = s.Apply([]Update{{Key: key, Err: errors.New("bad")}})
	if a, b := verdict(lookup(t, s, "", "10.0.0.1:80"), "good"), verdict(lookup(t, s, "", "10.0.0.2:80"), "good"); a == "allowed" || b != "allowed" {
		t.Errorf("in its namespace %s, elsewhere %s", a, b)
	}
}

func TestUpdatesThatMakeNoSense(t *testing.T) {
	s := waypointStore()
	for _, u := range []Update{{}, {Key: mesh.Key{Kind: "Service", Namespace: "a", Name: "b"}, Value: svc("default/items")}} {
		if err := s.Apply([]Update{u}); err == nil {
			t.Errorf("%+v: no error", u)
		}
	}
	if err := s.Apply([]Update{{Key: mesh.Key{Kind: "Banana"}}, {Key: gateway().Key()}, {Key: policy("a/b").Key()}}); err != nil {
		t.Errorf("deleting what is not there: %v", err)
	}
}

// TestDestinationsAreKept changes one thing at a time and says which
// destinations are replaced.
func TestDestinationsAreKept(t *testing.T) {
	items := served("default/items", "10.1.0.1")
	items.Ports = append(items.Ports, mesh.Port{Name: "admin", Service: 81, Target: 8081})
	a := pod("default/a", "10.0.0.1", "default/items")
	base := []Resource{items, served("default/other", "10.1.0.2"), a, pod("default/b", "10.0.0.2", "default/other"), gateway(),
		policy("default/p", ref("Service", "items")), route("default/r", routing80("default/items"))}
	changed := func(f func(w *mesh.Workload)) *mesh.Workload {
		w := *a
		f(&w)
		return &w
	}
	renamed := *items
	renamed.SANs = []string{"spiffe://cluster.local/ns/x/sa/y"}
	elsewhere := gateway()
	elsewhere.Addresses = nil
	for _, tt := range []struct {
		name   string
		update Update
		want   string // of: 80 81 other a b
	}{
		{"nothing", Update{Value: changed(func(*mesh.Workload) {})}, ""},
		{"an endpoint", Update{Value: pod("default/c", "10.0.0.3", "default/items")}, "80 81"},
		{"readiness", Update{Value: changed(func(w *mesh.Workload) { w.Unhealthy = true })}, "80 81 a"},
		{"a port of one endpoint", Update{Value: changed(func(w *mesh.Workload) {
			w.Services = map[mesh.Hostname]mesh.Membership{host("default/items"): {Ports: map[uint16]uint16{80: 9090}}}
		})}, "80 81 a"},
		{"a workload of no service", Update{Value: pod("default/c", "10.0.0.3")}, ""},
		{"the service", Update{Value: &renamed}, "80 81"},
		{"another service", Update{Value: served("default/third", "10.1.0.3")}, ""},
		{"a route of one port", Update{Value: route("default/r2", routing80("default/items"))}, "80"},
		{"a route gone", Update{Key: route("default/r").Key()}, "80"},
		{"a route of nothing", Update{Value: route("default/r3", routing80("default/none"))}, ""},
		{"a policy", Update{Value: policy("default/p2", ref("Service", "items"))}, "80 81"},
		{"a policy of nothing", Update{Value: policy("default/p2", ref("Service", "none"))}, ""},
		{"a policy of the gateway", Update{Value: policy("default/p2", ref("Gateway", "waypoint"))}, "80 81 other"},
		{"a policy gone", Update{Key: policy("default/p").Key()}, "80 81"},
		{"the gateway's address", Update{Value: elsewhere}, "80 81 other"},
		{"another gateway", Update{Value: &Gateway{Namespace: "default", Name: "another"}}, ""},
		{"the service gone", Update{Key: items.Key()}, "80 81"},
		{"the workload gone", Update{Key: a.Key()}, "80 81 a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := waypointStore()
			apply(t, s, base...)
			find := func() map[string]*Destination {
				return map[string]*Destination{"80": lookup(t, s, "", "10.1.0.1:80"), "81": lookup(t, s, "", "10.1.0.1:81"),
					"other": lookup(t, s, "", "10.1.0.2:80"), "a": lookup(t, s, "", "10.0.0.1:1"), "b": lookup(t, s, "", "10.0.0.2:1")}
			}
			before := find()
			told := map[*Destination]*Destination{}
			s.OnPublish(func(c Changes) {
				if c.Snapshot != s.Snapshot() {
					t.Error("told of another snapshot")
				}
				for k, v := range c.Destinations {
					told[k] = v
				}
			})
			if err := s.Apply([]Update{tt.update}); err != nil {
				t.Fatal(err)
			}
			after := find()
			for which, d := range before {
				want := strings.Contains(" "+tt.want+" ", " "+which+" ")
				if got := after[which] != d; got != want {
					t.Errorf("%s replaced %v, want %v", which, got, want)
				}
				if now, ok := told[d]; ok != want || ok && now != after[which] {
					t.Errorf("%s: told %v of %v, want %v of %v", which, ok, name(now), want, name(after[which]))
				}
			}
		})
	}
}

func TestLoadAndBudgetOutliveChanges(t *testing.T) {
	s := waypointStore()
	apply(t, s, served("default/items", "10.1.0.1"), pod("default/a", "10.0.0.1", "default/items"))
	before := lookup(t, s, "", "10.1.0.1:80")
	before.Endpoints[0].Load.Add(7)
	w := pod("default/a", "10.0.0.1", "default/items")
	w.Capacity = 3
	two := served("default/items", "10.1.0.1")
	two.Private = true
	if err := s.Apply(append([]Update{{Key: w.Key()}}, updates(w, two)...)); err != nil {
		t.Fatal(err)
	}
	after, direct := lookup(t, s, "default", "10.1.0.1:80"), lookup(t, s, "", "10.0.0.1:80")
	if after == before || after.Endpoints[0].Load != before.Endpoints[0].Load || direct.Endpoints[0].Load.Load() != 7 {
		t.Error("the load of a workload did not outlive a change to it")
	}
	if after.Retries == nil || after.Retries != before.Retries || direct.Retries == nil {
		t.Error("the budget of a port did not outlive a change to its service")
	}
}

func TestChangesOfWorkloads(t *testing.T) {
	s := NewStore(Options{})
	var got []string
	s.OnPublish(func(c Changes) {
		for _, w := range c.Workloads {
			got = append(got, fmt.Sprint(w.Old != nil, w.New != nil))
		}
	})
	a := pod("default/a", "10.0.0.1")
	b := pod("default/a", "10.0.0.2")
	apply(t, s, a)
	apply(t, s, b)
	if err := s.Apply([]Update{{Key: b.Key()}, {Value: a}}); err != nil { // gone and back
		t.Fatal(err)
	}
	remove(t, s, a)
	remove(t, s, a)
	if want := "false true, true true, true true, true false"; strings.Join(got, ", ") != want {
		t.Errorf("changes %q, want %q", strings.Join(got, ", "), want)
	}
	if n := s.builder.workloads.n; n != 0 {
		t.Errorf("%d workloads remembered, want 0", n)
	}
}

func TestBatchesWithinQuietArePublishedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewStore(Options{Quiet: 10 * time.Millisecond, MaxQuiet: 35 * time.Millisecond})
		start := time.Now()
		var published []time.Duration
		s.OnPublish(func(Changes) { published = append(published, time.Since(start)) })
		for i := range 5 { // at 0, 8, 16, 24 and 32 ms: no quiet until 42, but no later than 35
			apply(t, s, pod(fmt.Sprint("default/a", i), fmt.Sprint("10.0.0.", i)))
			time.Sleep(8 * time.Millisecond)
			synctest.Wait()
		}
		time.Sleep(time.Second)
		apply(t, s, pod("default/b", "10.0.0.9")) // at 1040: quiet at 1050
		time.Sleep(time.Second)
		apply(t, s, pod("default/b", "10.0.0.9")) // nothing new
		time.Sleep(time.Second)
		apply(t, s, pod("default/c", "10.0.0.8"))
		s.Flush() // at 3040, and not again
		time.Sleep(time.Second)
		synctest.Wait()
		want := []time.Duration{35 * time.Millisecond, 1050 * time.Millisecond, 3040 * time.Millisecond}
		if fmt.Sprint(published) != fmt.Sprint(want) {
			t.Errorf("published at %v, want %v", published, want)
		}
	})
}

func TestSynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewStore(Options{Quiet: time.Hour})
		apply(t, s, svc("default/items", "10.1.0.1"))
		select {
		case <-s.Ready():
			t.Fatal("ready before the source has synced")
		default:
		}
		s.Synced()
		<-s.Ready()
		if lookup(t, s, "", "10.1.0.1:80") == nil {
			t.Error("ready, and what was applied is not there")
		}
		s.Synced()
	})
}

func TestConcurrentUse(t *testing.T) {
	s := NewStore(Options{Gateway: ourGateway, Quiet: time.Microsecond})
	items := served("default/items", "10.1.0.1")
	apply(t, s, items, gateway())
	s.Synced()
	last := s.Snapshot()
	s.OnPublish(func(c Changes) {
		if c.Snapshot.Version() <= last.Version() {
			t.Errorf("told of version %d after %d", c.Snapshot.Version(), last.Version())
		}
		last = c.Snapshot
	})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 200 {
				w := pod(fmt.Sprint("default/w", i), fmt.Sprintf("10.0.%d.%d", i, n), "default/items")
				if err := s.Apply(updates(w)); err != nil {
					t.Error(err)
				}
				d := lookup(t, s, "", "10.1.0.1:80")
				if e := routing.LeastLoaded(d.Endpoints, uint64(n)); e != nil {
					e.Load.Add(1)
				}
				s.Rejected()
			}
		})
	}
	wg.Wait()
	s.Flush()
	s.notify.Lock() // whoever publishes last may still be telling
	defer s.notify.Unlock()
	if last != s.Snapshot() {
		t.Error("not told of the last snapshot")
	}
	if got := len(lookup(t, s, "", "10.1.0.1:80").Endpoints); got != 4 {
		t.Errorf("%d endpoints, want 4", got)
	}
}

func TestWhatIsCompiledIsSharedAndForgotten(t *testing.T) {
	s := waypointStore()
	apply(t, s, gateway(), served("default/items", "10.1.0.1"), served("default/other", "10.1.0.2"))
	both := []routing.Parent{{Service: host("default/items")}, {Service: host("default/other")}}
	for i := range 100 {
		p, r := policy("default/p", ref("Gateway", "waypoint")), route("default/r", both...)
		p.Rules[0].From[0].Namespaces[0] = fmt.Sprint("bad", i)
		r.Rules[0].Name = fmt.Sprint("rule", i)
		apply(t, s, p, r)
		a, b := lookup(t, s, "", "10.1.0.1:80"), lookup(t, s, "", "10.1.0.2:80")
		if a.Policies == nil || a.Policies != b.Policies || a.Routes == nil || a.Routes != b.Routes {
			t.Fatal("two services under the same policies and routes do not share what was compiled")
		}
		if got := rule(t, a); got != r.Rules[0].Name {
			t.Fatalf("rule %s, want %s", got, r.Rules[0].Name)
		}
	}
	if n, m := len(s.builder.policies.sets.compiled), len(s.builder.tables.compiled); n != 1 || m != 1 {
		t.Errorf("%d sets and %d tables are remembered, want 1 and 1", n, m)
	}
}
