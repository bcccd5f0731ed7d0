package xds

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
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

	name := "/10.0.0.1"
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

// want asks for a name on a stream that is open.
func want(ds demands, name string) error {
	_, _, err := ds.want(name, true)
	return err
}

// istiod is asked again for what is not there any more, and for what was not there
// a while ago; and while it is away, its last answer holds.
func TestAnswersHoldForAWhile(t *testing.T) {
	r := start(t, Options{OnDemand: true})
	s := r.plane.accept(t)
	s.subscribed()
	s.ack(AuthorizationType, nil)
	s.ack(AddressType, nil)
	answer := func(done <-chan error) {
		t.Helper()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	wantAsked := func(subscribe, unsubscribe []string) {
		t.Helper()
		if q := s.request(); !slices.Equal(q.ResourceNamesSubscribe, subscribe) || !slices.Equal(q.ResourceNamesUnsubscribe, unsubscribe) {
			t.Fatalf("asked for %v", q)
		}
	}
	const name = "/10.0.0.1"
	asked := []string{name}
	done := r.asked(name)
	wantAsked(asked, nil)
	s.ack(AddressType, asked)
	answer(done)
	answer(r.asked(name)) // it is known that there is nothing

	r.expire()
	done, also := r.asked(name), r.asked(name)
	wantAsked([]string{nowhere}, asked) // never nothing
	wantAsked(asked, nil)
	a := workload(t, "a", "1", "10.0.0.1")
	a.Aliases = asked
	s.ack(AddressType, nil, a)
	answer(done)
	answer(also)
	r.want("a")
	s.ack(AddressType, []string{uid("a")})
	r.want()

	r.expire()
	done = r.asked(name)                // it may be another's by now
	wantAsked([]string{nowhere}, asked) // never nothing
	wantAsked(asked, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := r.source.Demand(ctx, name); err != nil {
		t.Errorf("without an answer in time: got %v, want the last to hold", err)
	}
	s.end <- errGone
	s = r.plane.accept(t)
	if addresses, _ := s.subscribed(); !slices.Equal(addresses.ResourceNamesSubscribe, []string{"*", name}) {
		t.Errorf("subscribed to %q", addresses.ResourceNamesSubscribe)
	}
	r.expire()
	answer(r.asked(name)) // nothing has come on the stream yet
	s.ack(AddressType, asked)
	answer(done)
}

// expire has every answer be old.
func (r *rig) expire() {
	ds := r.source.demands
	ds.mu.Lock()
	defer ds.mu.Unlock()
	for _, d := range ds.names {
		if !d.at.IsZero() {
			d.at = d.at.Add(-2 * ds.holds)
		}
	}
}

func TestDemandsAreBounded(t *testing.T) {
	ds := newDemands()
	answer := func(removed ...string) { ds.answered(nil, removed) }
	name := func(i int) string { return fmt.Sprint("/", i) }
	for i := range maxAbsent + 10 {
		if err := want(ds, name(i)); err != nil {
			t.Fatal(err)
		}
		answer(name(i))
	}
	drop, add := ds.take()
	if len(add) != maxAbsent+10 || len(drop) != 10 || drop[0] != name(0) {
		t.Errorf("subscribed to %d, gave up %d: %q", len(add), len(drop), drop)
	}
	// What was given up and is wanted again is subscribed to after that.
	if err := want(ds, name(maxAbsent+11)); err != nil {
		t.Fatal(err)
	}
	answer(name(maxAbsent + 11)) // gives up 10
	if err := want(ds, name(10)); err != nil {
		t.Fatal(err)
	}
	if drop, add := ds.take(); !slices.Contains(add, name(10)) || !slices.Contains(drop, name(10)) {
		t.Errorf("subscribed to %q, gave up %q", add, drop)
	}
	// Those that are there are never given up; and there is an end to them.
	full := newDemands()
	for i := range maxDemands {
		if err := want(full, name(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := want(full, "one more"); !errors.Is(err, errTooMany) {
		t.Errorf("got %v", err)
	}
	full.answered(nil, []string{name(5)})
	if err := want(full, "one more"); err != nil {
		t.Errorf("got %v, although there is room for one", err)
	}
	if got := len(full.all()); got != maxDemands {
		t.Errorf("%d names", got)
	}
}
