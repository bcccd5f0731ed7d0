package enroll

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/waystone-mesh/waystone/internal/capture"
	"github.com/waystone-mesh/waystone/internal/netns"
	"github.com/waystone-mesh/waystone/internal/zds"
)

// An entry is a pod and how far we are with it.
type entry struct {
	pod  Pod
	gone bool // there is no such pod any more

	at    time.Time     // when it is to be looked at; zero: when something changes
	delay time.Duration // after the last failure
	said  string        // the failure that was logged
	wrong string        // what is wrong with its annotations, and was logged
	mark  string        // the annotation that is being set; noMark: it is being removed

	// What was done, in this order.
	place    Place
	ns       *netns.Netns // ours; nil: not found yet
	stale    bool         // it may have another namespace by now
	told     bool         // the tunnel knows of it
	exempt   []netip.Addr // whose probes the node lets in
	served   bool
	captured bool
	options  capture.Options // that it is captured with
}

// wanted tells that it belongs in the mesh, and can be looked for.
func (p *entry) wanted() bool { return !p.gone && p.pod.Wanted && len(p.pod.Addresses) > 0 }

func (p *entry) name() string { return p.pod.Namespace + "/" + p.pod.Name }

// changed takes over what is new. A pod that has another address was made anew,
// perhaps in another namespace.
func (p *entry) changed(n Pod, now time.Time) {
	if len(n.Addresses) == 0 {
		n.Addresses = p.pod.Addresses // a pod that ends may lose them first (kubernetes#125370)
	}
	moved := p.ns != nil && !slices.Equal(n.Addresses, p.pod.Addresses)
	if cmp.Or(n.Marked, noMark) == p.mark {
		p.mark = ""
	}
	p.pod, p.gone, p.at, p.delay = n, false, now, 0
	p.stale = p.stale || moved
}

// forget makes a pod one whose namespace is not known. What there was is gone,
// with its rules.
func (p *entry) forget() {
	p.ns.Close()
	p.ns, p.stale, p.served, p.captured = nil, false, false, false
}

// settle brings a pod to where it should be, and returns when to look at it
// again.
func (e *Enroller) settle(p *entry, places map[string]Place, now time.Time) time.Duration {
	err := e.bring(p, places)
	if p.gone && err == nil {
		delete(e.pods, p.pod.UID)
		return e.o.Audit
	}
	if err == nil {
		p.at, p.delay, p.said = time.Time{}, 0, ""
		return e.o.Audit
	}
	p.delay = min(max(2*p.delay, e.o.MinBackoff), e.o.MaxBackoff)
	p.at = now.Add(p.delay)
	if p.said != err.Error() {
		p.said = err.Error()
		e.o.Log.Warn("enroll: trying again", "pod", p.name(), "error", err)
	}
	return p.delay
}

func (e *Enroller) bring(p *entry, places map[string]Place) error {
	switch {
	case p.gone:
		return e.release(p)
	case !p.pod.Wanted:
		if err := e.release(p); err != nil {
			return err
		}
		e.setMark(p, noMark)
		return nil
	case len(p.pod.Addresses) == 0:
		return nil // there will be news
	}
	return e.capture(p, places)
}

// capture goes on from wherever the last attempt stopped.
func (e *Enroller) capture(p *entry, places map[string]Place) error {
	if err := p.find(places[p.pod.UID]); err != nil {
		return err
	}
	if err := e.exempt(p, p.pod.Addresses); err != nil {
		return err
	}
	if !p.served {
		if err := e.serve(p); err != nil {
			return fmt.Errorf("serving it: %w", err)
		}
		p.served = true
	}
	o, err := capture.ForPod(e.o.Capture, p.pod.Annotations)
	if err != nil && p.wrong != err.Error() {
		p.wrong = err.Error()
		e.o.Log.Warn("enroll: an annotation is ignored", "pod", p.name(), "error", err)
	}
	if !p.captured || !reflect.DeepEqual(p.options, o) {
		if err := e.o.Rules.Apply(p.ns, o); err != nil {
			return err
		}
		e.o.Log.Info("enroll: pod is captured", "pod", p.name(), "uid", p.pod.UID, "netns", p.ns.ID())
		p.captured, p.options = true, o
	}
	e.setMark(p, markEnabled)
	return nil
}

// find opens the namespace that was found, unless it is the one that we have.
func (p *entry) find(at Place) error {
	if p.ns != nil && !p.stale {
		return nil
	}
	ns, err := open(at)
	if err != nil {
		return err
	}
	if p.ns != nil && ns.ID() == p.ns.ID() {
		p.place, p.stale = at, false
		return ns.Close()
	}
	p.forget()
	p.place, p.ns = at, ns
	return nil
}

// exempt makes addrs those of the pod that the node lets probes to.
func (e *Enroller) exempt(p *entry, addrs []netip.Addr) error {
	if e.o.Node == nil || slices.Equal(p.exempt, addrs) {
		return nil
	}
	stale := slices.DeleteFunc(slices.Clone(p.exempt), func(a netip.Addr) bool { return slices.Contains(addrs, a) })
	if len(stale) > 0 {
		if err := e.o.Node.Remove(stale...); err != nil {
			return err
		}
	}
	if len(addrs) > 0 {
		if err := e.o.Node.Add(addrs...); err != nil {
			return err
		}
	}
	p.exempt = slices.Clone(addrs)
	return nil
}

// serve gives the tunnel a namespace of its own: it closes it.
func (e *Enroller) serve(p *entry) error {
	ns, err := open(p.place)
	if err != nil {
		p.stale = true
		return err
	}
	p.told = true
	return e.o.Handler.Add(zds.Pod{UID: p.pod.UID, Name: p.pod.Name, Namespace: p.pod.Namespace, ServiceAccount: p.pod.ServiceAccount, Netns: ns})
}

// release undoes capture, in the opposite order.
func (e *Enroller) release(p *entry) error {
	if p.ns != nil {
		if err := e.o.Rules.Remove(p.ns); err != nil && !p.gone {
			return err
		} else if err != nil {
			e.o.Log.Warn("enroll: rules of a pod that is gone", "pod", p.name(), "error", err)
		}
	}
	if p.captured {
		e.o.Log.Info("enroll: pod is released", "pod", p.name(), "uid", p.pod.UID)
	}
	p.captured = false
	if p.told {
		e.o.Handler.Remove(p.pod.UID)
	}
	p.told, p.served = false, false
	if err := e.exempt(p, nil); err != nil {
		return err
	}
	p.forget()
	return nil
}

// open opens a namespace, if it is still the one that was found.
func open(at Place) (*netns.Netns, error) {
	if at.Err != nil {
		return nil, at.Err
	}
	if at.Path == "" {
		return nil, errors.New("its network namespace was not found")
	}
	ns, err := netns.Open(at.Path)
	if err != nil {
		return nil, err
	}
	if ns.ID() != at.ID {
		return nil, errors.Join(fmt.Errorf("%s is another network namespace than it was", at.Path), ns.Close())
	}
	return ns, nil
}
