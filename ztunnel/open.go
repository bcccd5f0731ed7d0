package ztunnel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/zds"
)

// A Pod is one that is served, or is to be, and what is open of it.
type Pod struct {
	Workload *mesh.Workload
	State    PodState
	Reason   string // why it is pending
	Inbound  []Connection
	Outbound []Connection
}

// A PodState is how far a pod is in being served.
type PodState uint8

// The states of a pod.
const (
	Pending  PodState = iota // its ports could not be opened yet
	Up                       // it is served
	Draining                 // nothing new is taken, and something is still open
)

func (s PodState) String() string { return [...]string{"Pending", "Up", "Draining"}[s] }

// A Connection is one that is open: from a pod of ours (outbound), or to one.
type Connection struct {
	Source   netip.AddrPort // who opened it
	Original netip.AddrPort // what an outbound one was for, before it was decided where it goes
	Service  string         // the host name of the service that it was for; "" is none
	Actual   netip.AddrPort // what we dialled
	HBONE    bool           // between us and the other proxy
	Peer     identity.ID    // who is at the other end, by certificate; zero if that is not known

	Since          time.Time
	Received, Sent uint64 // from the client, and to it
}

// atOnce is how many connections a loop tells before it turns to its traffic
// again: 250, which take it 0.5 ms on busy cores. To say which there are takes
// 4 to 10 ms there where there are 100,000.
const atOnce = 250

// Open returns the pods by UID, with the connections that are open. Each loop is
// asked for its own, some at a time, so that none stands still for it; what came
// or went meanwhile may be told or not. The error names the loops that did not
// answer while ctx lasted: of their connections some are missing.
func (z *Ztunnel) Open(ctx context.Context) (map[string]*Pod, error) {
	pods := z.known()
	var errs []error
	for i, l := range z.options.Loops.Loops() {
		if err := z.workers[l].tell(ctx, pods); err != nil {
			errs = append(errs, fmt.Errorf("loop %d has not told all that is open: %w", i, err))
		}
	}
	for _, p := range pods {
		slices.SortFunc(p.Inbound, oldestFirst)
		slices.SortFunc(p.Outbound, oldestFirst)
	}
	return pods, errors.Join(errs...)
}

func oldestFirst(a, b Connection) int {
	return cmp.Or(a.Since.Compare(b.Since), a.Source.Compare(b.Source))
}

// known returns the pods that there are, without what is open.
func (z *Ztunnel) known() map[string]*Pod {
	snap := z.options.Store.Snapshot()
	z.mu.Lock()
	defer z.mu.Unlock()
	out := make(map[string]*Pod, len(z.pods)+len(z.pending))
	for uid, p := range z.pods {
		out[uid] = &Pod{Workload: p.about(), State: Up}
	}
	if z.self != nil {
		out[z.self.uid] = &Pod{Workload: z.self.about(), State: Up}
	}
	for uid, w := range z.pending {
		if z.options.InPod != nil {
			out[uid] = &Pod{Workload: nameless(&w.about), Reason: w.why}
		} else if d := snap.Destination(uid); d != nil {
			out[uid] = &Pod{Workload: d.Workload, Reason: w.why}
		}
	}
	return out
}

// about returns the pod's workload, or what is known of it otherwise.
func (p *pod) about() *mesh.Workload {
	if w := p.workload.Load(); w != nil || p.inside == nil {
		return w
	}
	return nameless(&p.inside.Pod)
}

// nameless is a pod of which the control plane has said nothing yet.
func nameless(p *zds.Pod) *mesh.Workload {
	return &mesh.Workload{Name: p.Name, Namespace: p.Namespace, ServiceAccount: p.ServiceAccount}
}

// An opened is a connection that a loop has. Its methods belong to the loop.
type opened interface {
	// tell returns the pod, and false when the connection is not open.
	tell() (p *pod, c Connection, inbound, ok bool)
}

// tell adds what is open on the loop to pods.
func (w *worker) tell(ctx context.Context, pods map[string]*Pod) error {
	all, err := ask(ctx, w, func() []opened {
		list := make([]opened, 0, len(w.inbound)+len(w.outbound))
		for i := range w.inbound {
			list = append(list, i)
		}
		for o := range w.outbound {
			list = append(list, o)
		}
		return list
	})
	if err != nil {
		return err
	}
	for some := range slices.Chunk(all, atOnce) {
		told, err := ask(ctx, w, func() []told {
			list := make([]told, 0, len(some))
			for _, x := range some {
				if p, c, inbound, ok := x.tell(); ok {
					list = append(list, told{p, c, inbound})
				}
			}
			return list
		})
		if err != nil {
			return err
		}
		for i := range told {
			told[i].addTo(pods)
		}
	}
	return nil
}

// ask has f run on the loop, and returns what it returned.
func ask[T any](ctx context.Context, w *worker, f func() T) (T, error) {
	answer := make(chan T, 1) // the loop never waits for who asked
	w.loop.Do(func() { answer <- f() })
	select {
	case x := <-answer:
		return x, nil
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// A told is what a loop has said of a connection.
type told struct {
	pod     *pod
	c       Connection
	inbound bool
}

func (t *told) addTo(pods map[string]*Pod) {
	p := pods[t.pod.uid]
	if p == nil { // its pod is gone, or we are about to be
		p = &Pod{Workload: t.pod.about(), State: Draining}
		pods[t.pod.uid] = p
	}
	if t.inbound {
		p.Inbound = append(p.Inbound, t.c)
	} else {
		p.Outbound = append(p.Outbound, t.c)
	}
}

func (i *inbound) tell() (p *pod, c Connection, in, ok bool) {
	c = Connection{Source: i.in.Source, Actual: i.input.Dest, HBONE: i.plain == nil, Peer: i.in.Peer, Since: i.rec.Start}
	if s := i.rec.Service; s != nil {
		c.Service = s.Hostname
	}
	c.Received, c.Sent = i.pair.Bytes()
	return i.pod, c, true, i.opened
}

func (o *outbound) tell() (p *pod, c Connection, in, ok bool) {
	c = Connection{
		Source: o.rec.SourceAddr, Original: o.rec.LocalAddr, Actual: o.route.addr,
		HBONE: o.route.tunnel, Peer: o.rec.DestID, Since: o.rec.Start,
	}
	if s := o.route.service; s != nil {
		c.Service = s.Hostname
	}
	c.Received, c.Sent = o.pair.Bytes()
	return o.pod, c, false, o.opened
}
