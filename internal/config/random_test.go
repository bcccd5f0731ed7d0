package config

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
)

// TestRandomChangesGiveWhatABuildFromScratchGives makes random changes to a
// small mesh, and after each batch compares the snapshot with that of a Store
// which was given everything at once; and the changes that were announced with
// those that there are.
func TestRandomChangesGiveWhatABuildFromScratchGives(t *testing.T) {
	for _, o := range []Options{
		{Gateway: ourGateway, Node: "node-1"},
		{Gateway: ourGateway, Compat118: true},
		{Node: "node-2"},
	} {
		for seed := range uint64(3) {
			t.Run(fmt.Sprintf("%s,%v,%d", o.Gateway.Name, o.Compat118, seed), func(t *testing.T) {
				(&world{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), options: o}).run(60)
			})
		}
	}
}

// A world knows what a Store was given.
type world struct {
	t       *testing.T
	rnd     *rand.Rand
	options Options
	good    map[mesh.Key]Resource // in the last good version
	bad     map[mesh.Key]Update   // rejected since
}

func (w *world) run(steps int) {
	w.good, w.bad = map[mesh.Key]Resource{}, map[mesh.Key]Update{}
	s := NewStore(w.options)
	var told Changes
	s.OnPublish(func(c Changes) { told = c })
	for step := range steps {
		var batch []Update
		for range 1 + w.rnd.IntN(4) {
			batch = append(batch, w.change())
		}
		before := destinations(s.Snapshot())
		told = Changes{}
		_ = s.Apply(batch)
		after := destinations(s.Snapshot())
		for d := range before {
			if _, announced := told.Destinations[d]; announced == after[d] {
				w.t.Fatalf("step %d: %s: still there %v, announced as changed %v", step, name(d), after[d], announced)
			}
		}
		fresh := NewStore(w.options)
		var all []Update
		for k, r := range w.good {
			all = append(all, Update{Key: k, Value: r})
		}
		w.rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		if err := fresh.Apply(all); err != nil {
			w.t.Fatal(err)
		}
		for _, u := range w.bad {
			_ = fresh.Apply([]Update{u})
		}
		got, want := strings.Split(dump(w.t, s), "\n"), strings.Split(dump(w.t, fresh), "\n")
		for i := range min(len(got), len(want)) {
			if got[i] != want[i] {
				w.t.Fatalf("step %d, after %v:\ngot  %s\nwant %s", step, batch, got[i], want[i])
			}
		}
		if len(got) != len(want) {
			w.t.Fatalf("step %d: %d lines, want %d", step, len(got), len(want))
		}
	}
}

// change returns a random update, and notes what it leaves behind.
func (w *world) change() Update {
	r := w.resource()
	k := r.Key()
	switch w.rnd.IntN(6) {
	case 0:
		delete(w.good, k)
		delete(w.bad, k)
		return Update{Key: k}
	case 1:
		u := Update{Key: k, Value: r, Err: errors.New("bad")}
		if w.rnd.IntN(4) == 0 {
			u.Value = nil
		}
		w.bad[k] = u
		return u
	}
	w.good[k] = r
	delete(w.bad, k)
	return Update{Key: k, Value: r}
}

func (w *world) pick(of ...string) string { return of[w.rnd.IntN(len(of))] }

func (w *world) resource() Resource {
	ns := w.pick("default", "other", "istio-system")
	switch w.rnd.IntN(12) {
	case 0:
		p := policy(ns+"/"+w.pick("p", "q"), ref("Service", w.pick("items", "web")))
		if w.rnd.IntN(2) == 0 && ns != "other" {
			p.TargetRefs[0] = ref("Gateway", "waypoint")
		}
		if w.rnd.IntN(4) == 0 {
			p.TargetRefs, p.Selector = nil, map[string]string{gatewayNameLabel: "waypoint"}
		}
		if w.rnd.IntN(6) == 0 {
			p.TargetRefs, p.Selector = nil, nil
		}
		p.Rules[0].From[0].Namespaces[0] = w.pick("good", "bad")
		return p
	case 1:
		return route(ns+"/"+w.pick("r", "s"), routing80(w.pick("default", "other")+"/"+w.pick("items", "web")))
	case 2:
		g := gateway()
		g.ServiceAccount = w.pick("", "sa")
		if w.rnd.IntN(2) == 0 {
			g.Addresses[0] = mesh.GatewayAddress{Address: mesh.Address{IP: netip.MustParseAddr(w.pick("10.1.0.1", "10.0.0.1"))}}
		}
		return g
	case 9:
		p := tokens(ns+"/"+w.pick("p", "q"), w.pick("i", "j"), ref("Service", w.pick("items", "web")))
		if w.rnd.IntN(2) == 0 && ns != "other" {
			p.TargetRefs[0] = ref("Gateway", "waypoint")
		}
		return p
	case 10:
		m := &Mesh{Providers: map[string]*authz.Provider{}, Normalization: routing.Normalization(w.rnd.IntN(2)), Aliases: []string{w.pick("old", "older")}}
		for _, name := range []string{"x", "y"} {
			if w.rnd.IntN(2) == 0 {
				m.Providers[name] = &authz.Provider{Name: name, Kind: authz.ProviderKind(w.rnd.IntN(2)), Service: "s", Port: 1 + w.rnd.Uint32N(2)}
			}
		}
		return m
	case 11:
		p := policy(ns+"/"+w.pick("p", "q"), ref("Service", w.pick("items", "web")))
		p.Action, p.Provider = authz.Custom, w.pick("x", "y")
		p.Rules[0].From[0] = authz.Source{Principals: []string{"cluster.local/ns/" + w.pick("good", "bad") + "/sa/sa"}}
		return p
	case 3, 4, 5:
		s := svc(w.pick("default", "other")+"/"+w.pick("items", "web", "waypoint"), w.pick("10.1.0.1", "10.1.0.2", "10.2.0.0/16", "10.2.0.0/24"))
		s.Canonical = w.rnd.IntN(2) == 0
		s.Private = w.rnd.IntN(4) == 0
		s.Waypoint = w.waypoint()
		if w.rnd.IntN(3) == 0 {
			s.Hostname = "shared.example.com"
		}
		if w.rnd.IntN(3) == 0 {
			s.Balance = mesh.Balance{Mode: mesh.Failover, Preference: []mesh.Scope{mesh.Zone}, AllowUnhealthy: w.rnd.IntN(2) == 0}
		}
		return s
	}
	p := pod(ns+"/"+w.pick("a", "b", "c"), w.pick("10.0.0.1", "10.0.0.2", "10.0.0.3"), "default/"+w.pick("items", "web", "waypoint"), w.pick("other/items", "other/none"))
	p.Unhealthy = w.rnd.IntN(4) == 0
	p.Tunnel = mesh.TunnelProtocol(w.rnd.IntN(2))
	p.HostNetwork = w.rnd.IntN(8) == 0
	p.Waypoint = w.waypoint()
	p.Node, p.Locality.Zone = w.pick("node-1", "node-2"), w.pick("z1", "z2")
	if w.rnd.IntN(4) == 0 {
		p.Policies = []mesh.Key{{Kind: authz.Kind, Namespace: w.pick("default", "other"), Name: "p"}}
	}
	if w.rnd.IntN(4) == 0 {
		p.IsWaypointFor = &ourGateway
	}
	return p
}

func (w *world) waypoint() *mesh.GatewayAddress {
	switch w.rnd.IntN(4) {
	case 0:
		return nil
	case 1:
		return &mesh.GatewayAddress{Address: mesh.Address{IP: netip.MustParseAddr(w.pick("10.1.0.1", "10.0.0.1"))}}
	}
	return &mesh.GatewayAddress{Hostname: host("default/waypoint")}
}

// destinations returns every Destination of a snapshot.
func destinations(s *Snapshot) map[*Destination]bool {
	out := map[*Destination]bool{}
	for _, v := range s.services.all() {
		out[v.other] = true
		for _, d := range v.ports {
			out[d] = true
		}
	}
	for d := range s.workloads.all() {
		out[d] = true
	}
	return out
}

// dump writes down all that can be asked of a Store.
func dump(t *testing.T, s *Store) string {
	snap := s.Snapshot()
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for h, v := range snap.services.all() {
		for _, d := range append(slices.Clone(v.ports), v.other) {
			say("service %s %s", h, tell(t, d))
		}
	}
	for d := range snap.workloads.all() {
		say("uid %s %s", d.Workload.UID, tell(t, d))
	}
	for _, client := range []string{"default", "other", "third"} {
		for _, a := range []string{"10.1.0.1:80", "10.1.0.2:80", "10.2.0.1:80", "10.2.9.9:81", "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80",
			"shared.example.com:80", "items.default.svc.cluster.local:80", "web.other.svc.cluster.local:80"} {
			say("lookup %s %s %s", client, a, tell(t, lookup(t, s, client, a)))
		}
	}
	for _, n := range []string{"node-1", "node-2"} {
		for _, w := range snap.Local(n) {
			say("local %s %s", n, w.UID)
		}
	}
	say("lists %d %d %d %d lengths %v", len(snap.policies), len(snap.tokens), len(snap.routes), len(snap.gateways), snap.lengths)
	say("mesh %v %v %v", slices.Sorted(maps.Keys(snap.Mesh().Providers)), snap.Mesh().Normalization, snap.Mesh().Aliases)
	say("sources %v", snap.TokenSources())
	say("counts %d %d %d %d %d %d", snap.services.n, snap.workloads.n, snap.hosts.n, snap.vips.n, snap.blocks.n, snap.addresses.n)
	say("rejected %s", rejections(s))
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// tell writes down what a Destination says.
func tell(t *testing.T, d *Destination) string {
	if d == nil {
		return "nothing"
	}
	var eps []string
	for _, e := range d.Endpoints {
		eps = append(eps, e.Workload.UID+"@"+e.Addr.String()+"="+e.Wants)
	}
	return fmt.Sprintf("%s attached=%v good=%s bad=%s tokens=%s rule=%s %v", name(d), d.Attached, verdict(d, "good"), verdict(d, "bad"), issuers(d), rule(t, d), eps)
}
