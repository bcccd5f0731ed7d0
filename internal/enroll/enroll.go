// Package enroll captures a node's pods where no CNI agent does it.
//
//	Kubernetes API, or the Store → Enroller → node tunnel, rules in the pod, annotation
//
// An Enroller is told of pods, finds the network namespace of those that belong
// in the mesh, has the node tunnel serve them, programs the rules that redirect
// their traffic, and says so in the annotation by which istiod knows them. What
// no longer belongs is undone in the opposite order. The tunnel's ports are open
// before the first connection is redirected, and as long as one may be.
//
// Rules stay when the process ends: its successor takes the pods over, and
// until then they are cut off rather than in the open. Undo is for leaving.
//
// A pod may have sent something before it is captured: we hear of it from the
// API server, when it runs already. Only a CNI plugin can do better.
package enroll

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/waystone-mesh/waystone/internal/capture"
	"github.com/waystone-mesh/waystone/internal/netns"
	"github.com/waystone-mesh/waystone/internal/zds"
)

// A Pod is what an Enroller must know of one.
type Pod struct {
	UID            string
	Name           string
	Namespace      string
	ServiceAccount string
	Addresses      []netip.Addr // the first is by what its network namespace is known
	Containers     []string     // their runtime's IDs
	Annotations    map[string]string

	Wanted bool   // it belongs in the mesh, and can be captured
	Marked string // what its annotation says of redirection; "": nothing
}

// Rules is package capture, for one network namespace.
type Rules struct {
	Apply  func(*netns.Netns, capture.Options) error
	Verify func(*netns.Netns, capture.Options) error
	Remove func(*netns.Netns) error
	There  func(*netns.Netns) (bool, error) // any of ours
}

var programmed = Rules{capture.Apply, capture.Verify, capture.Remove, capture.There}

// Node is the rules on the node: a *capture.Host.
type Node interface {
	Set([]netip.Addr) error
	Add(...netip.Addr) error
	Remove(...netip.Addr) error
	Verify() error
}

// Options is what an Enroller is made of. Handler and Find are required.
type Options struct {
	Handler zds.Handler     // serves the pods
	Capture capture.Options // of a pod without annotations

	// Find finds pods' network namespaces. All are those that there are: once it is
	// known which pods belong in the mesh, rules are removed from all others.
	Find func([]Pod) map[string]Place
	All  func() []Place // nil: none

	// Node lets probes in; nil: they are captured as everything is.
	Node Node

	// Mark sets a pod's annotation, or removes it if value is "". It may block. Nil:
	// pods are not marked.
	Mark func(ctx context.Context, p Pod, value string) error

	Rules Rules        // zero: package capture
	Log   *slog.Logger // nil: silent

	// MinBackoff is how long after a first failure a pod is tried again, MaxBackoff
	// how long at most; 0: 500 ms and 15 s.
	MinBackoff, MaxBackoff time.Duration

	// Audit is how often the rules of every pod are read back, and repaired; 0: 1 min.
	Audit time.Duration
}

// A Place is where a pod's network namespace was found.
type Place struct {
	Path string
	ID   netns.ID
	Err  error // not nil: it was not found, for this reason
}

// An Enroller captures pods. Make one with New.
type Enroller struct {
	o Options

	mu    sync.Mutex
	news  map[string]*Pod // Guarded by mu: by UID; nil: it is gone.
	all   bool            // Guarded by mu: Synced was called.
	marks map[string]mark // Guarded by mu: to be set.
	wake  chan struct{}   // holds one: there is news
	write chan struct{}   // holds one: there are marks

	// Owned by Run.
	pods    map[string]*entry
	synced  bool // the Handler was told so
	unswept bool // there may be rules of an earlier process
	audited time.Time
}

// New returns an Enroller that knows of no pods.
func New(o Options) *Enroller {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Rules.Apply == nil {
		o.Rules = programmed
	}
	o.MinBackoff = cmp.Or(o.MinBackoff, 500*time.Millisecond)
	o.MaxBackoff = cmp.Or(o.MaxBackoff, 15*time.Second)
	o.Audit = cmp.Or(o.Audit, time.Minute)
	return &Enroller{
		o: o, news: map[string]*Pod{}, marks: map[string]mark{}, pods: map[string]*entry{},
		wake: make(chan struct{}, 1), write: make(chan struct{}, 1),
	}
}

// Set tells of a pod, as it is now. It is safe for concurrent use, as are Delete
// and Synced.
func (e *Enroller) Set(p Pod) {
	e.mu.Lock()
	e.news[p.UID] = &p
	e.mu.Unlock()
	signal(e.wake)
}

// Delete tells that a pod is gone.
func (e *Enroller) Delete(uid string) {
	e.mu.Lock()
	e.news[uid] = nil
	e.mu.Unlock()
	signal(e.wake)
}

// Synced tells that every pod was told of. Before that, no pod of an earlier
// process is missed.
func (e *Enroller) Synced() {
	e.mu.Lock()
	e.all = true
	e.mu.Unlock()
	signal(e.wake)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run captures pods until ctx is done. They stay captured.
func (e *Enroller) Run(ctx context.Context) {
	var marking sync.WaitGroup
	marking.Go(func() { e.setMarks(ctx) })
	defer marking.Wait()
	defer e.close()
	e.audited = time.Now()
	for {
		again := e.step(time.Now())
		t := time.NewTimer(again)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-e.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

func (e *Enroller) close() {
	for _, p := range e.pods {
		p.ns.Close()
	}
}

// step does what can be done now, and returns how long nothing will have to be.
func (e *Enroller) step(now time.Time) time.Duration {
	all := e.hear(now)
	due, again := e.due(now)
	places := e.places(due)
	for _, p := range due {
		again = min(again, e.settle(p, places, now))
	}
	if all && !e.synced {
		e.synced, e.unswept = true, e.o.All != nil
		e.setNode()
		e.o.Handler.Synced()
	}
	if e.unswept {
		e.unswept = !e.sweep()
	}
	if left := e.audited.Add(e.o.Audit).Sub(now); left > 0 {
		return min(again, left)
	}
	e.audit(now)
	return min(again, e.o.Audit)
}

// hear takes over what Set, Delete and Synced were told.
func (e *Enroller) hear(now time.Time) (all bool) {
	e.mu.Lock()
	news := e.news
	e.news = map[string]*Pod{}
	all = e.all
	e.mu.Unlock()
	for uid, n := range news {
		p := e.pods[uid]
		switch {
		case n == nil && p == nil:
		case n == nil:
			p.gone, p.at, p.delay = true, now, 0
		case p == nil:
			e.pods[uid] = &entry{pod: *n, at: now}
		default:
			p.changed(*n, now)
		}
	}
	return all
}

// due returns the pods whose turn it is, and how long until the next one's.
func (e *Enroller) due(now time.Time) (due []*entry, again time.Duration) {
	again = e.o.Audit
	for _, p := range e.pods {
		switch {
		case p.at.IsZero():
		case p.at.After(now):
			again = min(again, p.at.Sub(now))
		default:
			due = append(due, p)
		}
	}
	return due, again
}

// places finds the namespaces of those that need one, all at once.
func (e *Enroller) places(due []*entry) map[string]Place {
	var missing []Pod
	for _, p := range due {
		if p.wanted() && (p.ns == nil || p.stale) {
			missing = append(missing, p.pod)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return e.o.Find(missing)
}

// addresses are those of all captured pods.
func (e *Enroller) addresses() []netip.Addr {
	set := map[netip.Addr]bool{}
	for _, p := range e.pods {
		for _, a := range p.exempt {
			set[a] = true
		}
	}
	var all []netip.Addr
	for a := range maps.Keys(set) {
		all = append(all, a)
	}
	return all
}

func (e *Enroller) setNode() {
	if e.o.Node == nil {
		return
	}
	if err := e.o.Node.Set(e.addresses()); err != nil {
		e.o.Log.Error("enroll: probes of the kubelet will be captured, and may fail", "error", err)
	}
}

// audit puts back what somebody has taken away.
func (e *Enroller) audit(now time.Time) {
	e.audited = now
	if e.o.Node != nil && e.synced {
		if err := e.o.Node.Verify(); err != nil {
			e.o.Log.Warn("enroll: rules of the node are put back", "error", err)
			e.setNode()
		}
	}
	for _, p := range e.pods {
		if !p.captured || p.gone {
			continue
		}
		if err := e.intact(p); err != nil {
			e.o.Log.Warn("enroll: a pod is looked at again", "pod", p.name(), "error", err)
			p.at = now
			signal(e.wake)
		}
	}
}

// intact returns an error if a pod has to be looked at again: somebody has taken
// rules away, or it may have another network namespace.
func (e *Enroller) intact(p *entry) error {
	at, err := open(p.place)
	if err != nil {
		p.stale = true
		return err
	}
	at.Close()
	if err := e.o.Rules.Verify(p.ns, p.options); err != nil {
		p.captured = false
		return err
	}
	return nil
}

// sweep removes rules that an earlier process left in namespaces of pods that
// belong in the mesh no more. As long as a pod is missing, it may be any of
// them.
func (e *Enroller) sweep() (done bool) {
	ours := map[netns.ID]bool{}
	for _, p := range e.pods {
		if p.wanted() && p.ns == nil {
			return false
		}
		if p.ns != nil {
			ours[p.ns.ID()] = true
		}
	}
	done = true
	for _, at := range e.o.All() {
		if ours[at.ID] {
			continue
		}
		if removed, err := removeAt(at, e.o.Rules); err != nil {
			done = false
			e.o.Log.Warn("enroll: removing the rules of an earlier process", "path", at.Path, "error", err)
		} else if removed {
			e.o.Log.Info("enroll: rules of an earlier process are removed", "path", at.Path, "netns", at.ID)
		}
	}
	return done
}

func removeAt(at Place, r Rules) (removed bool, err error) {
	ns, err := open(at)
	if err != nil {
		return false, nil // it is gone
	}
	defer ns.Close()
	if there, err := r.There(ns); err != nil || !there {
		return false, err
	}
	return true, r.Remove(ns)
}
