package xds

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// asked starts a Demand and returns where its outcome comes.
func (r *rig) asked(name string) <-chan error {
	done := make(chan error, 1)
	go func() { done <- r.source.Demand(r.Context(), name) }()
	return done
}

func TestOnDemand(t *testing.T) {
	r := start(t, Options{OnDemand: true})
	s := r.plane.accept(t)
	addresses, authorizations := s.subscribed()
	if !slices.Equal(addresses.ResourceNamesSubscribe, []string{"*"}) || !slices.Equal(addresses.ResourceNamesUnsubscribe, []string{"*"}) {
		t.Errorf("addresses: %v", addresses)
	}
	if len(authorizations.ResourceNamesSubscribe)+len(authorizations.ResourceNamesUnsubscribe) > 0 {
		t.Errorf("policies: %v", authorizations)
	}
	s.ack(AuthorizationType, nil)
	<-r.store.Ready() // there may be nothing of addresses to wait for
	s.ack(AddressType, nil, workload(t, "local", "1", "10.0.0.9"))
	r.want("local")

	name := AddressName(mesh.Address{Network: "", IP: netip.MustParseAddr("10.0.0.1")})
	one, two := r.asked(name), r.asked(name)
	if q := s.request(); !slices.Equal(q.ResourceNamesSubscribe, []string{"/10.0.0.1"}) || q.ResponseNonce != "" || q.TypeUrl != AddressType {
		t.Errorf("asked for %v", q)
	}
	a := workload(t, "a", "1", "10.0.0.1")
	a.Aliases = []string{"/10.0.0.1"}
	s.ack(AddressType, nil, a)
	if err := errors.Join(<-one, <-two, r.source.Demand(t.Context(), name)); err != nil {
		t.Error(err)
	}
	r.want("a", "local")

	none := r.asked("default/none")
	if q := s.request(); !slices.Equal(q.ResourceNamesSubscribe, []string{"default/none"}) {
		t.Errorf("asked for %v", q)
	}
	s.ack(AddressType, []string{"default/none"})
	if err := <-none; err != nil {
		t.Error(err)
	}

	// What was asked for is asked for on the next stream too, answered or not.
	unchanged := r.asked("/10.0.0.9") // the address of what is known by its name
	if q := s.request(); !slices.Equal(q.ResourceNamesSubscribe, []string{"/10.0.0.9"}) {
		t.Errorf("asked for %v", q)
	}
	waiting := r.asked("default/late")
	if q := s.request(); !slices.Equal(q.ResourceNamesSubscribe, []string{"default/late"}) {
		t.Errorf("asked for %v", q)
	}
	s.end <- errGone
	s = r.plane.accept(t)
	addresses, _ = s.subscribed()
	slices.Sort(addresses.ResourceNamesSubscribe)
	if want := []string{"*", "/10.0.0.1", "/10.0.0.9", "default/late", "default/none"}; !slices.Equal(addresses.ResourceNamesSubscribe, want) {
		t.Errorf("subscribed to %q, want %q", addresses.ResourceNamesSubscribe, want)
	}
	if got := addresses.InitialResourceVersions; len(got) != 2 || got[uid("a")] != "1" {
		t.Errorf("versions: %v", got)
	}
	s.ack(AddressType, nil, service(t, "late", "1", "10.9.0.1"))
	// What has not changed is not sent: it is answered all the same.
	if err := errors.Join(<-waiting, <-unchanged); err != nil {
		t.Error(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.source.Demand(gone, "default/never"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestDemandNeedsOnDemand(t *testing.T) {
	r := start(t, Options{})
	if err := r.source.Demand(t.Context(), "/10.0.0.1"); err == nil {
		t.Error("asked for what is subscribed to already")
	}
}

func TestDemandsAreBounded(t *testing.T) {
	ds := newDemands()
	answer := func(removed ...string) { ds.answered(nil, removed) }
	name := func(i int) string { return fmt.Sprint("/", i) }
	for i := range maxAbsent + 10 {
		if _, err := ds.want(name(i)); err != nil {
			t.Fatal(err)
		}
		answer(name(i))
	}
	add, drop := ds.take()
	if len(add) != maxAbsent+10 || len(drop) != 10 || drop[0] != name(0) {
		t.Errorf("subscribed to %d, gave up %d: %q", len(add), len(drop), drop)
	}
	// What was given up and is wanted again stays.
	if _, err := ds.want(name(maxAbsent + 11)); err != nil {
		t.Fatal(err)
	}
	answer(name(maxAbsent + 11)) // gives up 10
	if _, err := ds.want(name(10)); err != nil {
		t.Fatal(err)
	}
	if add, drop := ds.take(); !slices.Contains(add, name(10)) || slices.Contains(drop, name(10)) {
		t.Errorf("subscribed to %q, gave up %q", add, drop)
	}
	// Those that are there are never given up; and there is an end to them.
	full := newDemands()
	for i := range maxDemands {
		if _, err := full.want(name(i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := full.want("one more"); !errors.Is(err, errTooMany) {
		t.Errorf("got %v", err)
	}
	full.answered(nil, []string{name(5)})
	if _, err := full.want("one more"); err != nil {
		t.Errorf("got %v, although there is room for one", err)
	}
	if got := len(full.all()); got != maxDemands {
		t.Errorf("%d names", got)
	}
}
