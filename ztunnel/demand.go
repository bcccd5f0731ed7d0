package ztunnel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

const (
	// maxAsking bounds the connections that wait for an answer, from pods and again
	// to them: each holds a goroutine and a buffer.
	maxAsking = 4096

	// maxAsked bounds the names that one connection asks for: an address, the
	// waypoint of what is there, and the gateways to it are three or four.
	maxAsked = 8

	// A name that only labels in metrics and logs depend on is waited for 1 s, and
	// after one without an answer none for 5 s: while the control plane is away,
	// pods are reached all the same.
	labelWait  = time.Second
	labelPause = 5 * time.Second
)

var (
	errNotTold = errors.New("ztunnel: the control plane has not said what is there")
	errAsking  = errors.New("ztunnel: too many connections wait for the control plane to say what is there")
)

// A need is what depends on a name that is asked for.
type need uint8

const (
	forLabels need = iota // labels only
	forWay                // by which way it goes; without it, as things are known
	forPlace              // where it goes: without it, nowhere
)

// A wanted is what one connection needs to know of and nothing is known of yet,
// by the names that the control plane has for it. Nil is a connection of a node
// tunnel that knows all there is.
type wanted struct {
	next  string // to be asked for; "" is nothing
	need  need   // of next
	asked []string
	until time.Time // when it has waited long enough, over all names
}

// note takes a name to be asked for, unless it was already, or another is first.
func (k *wanted) note(name string, n need) {
	if k == nil || k.next != "" || len(k.asked) >= maxAsked || slices.Contains(k.asked, name) {
		return
	}
	k.next, k.need = name, n
}

func (k *wanted) address(network string, a mesh.Authority, n need) {
	k.note(network+"/"+a.IP.String(), n)
}

func (k *wanted) gateway(gw *mesh.GatewayAddress) {
	switch {
	case k == nil:
	case gw.Hostname != (mesh.Hostname{}):
		k.note(gw.Hostname.String(), forWay)
	case gw.Address.IP.IsValid():
		k.address(gw.Address.Network, mesh.Authority{IP: gw.Address.IP}, forWay)
	}
}

// host notes the names that a service may have which a client of a namespace calls
// host, as decider.lookup has it. In what namespace somebody has declared a host
// outside of the cluster cannot be known: the client's is tried.
func (k *wanted) host(namespace, host, domain string, n need) {
	suffix := ".svc." + domain
	for _, name := range [...]string{host, host + "." + namespace + suffix, host + suffix, host + "." + domain} {
		ns := namespace
		if local, ok := strings.CutSuffix(name, suffix); ok {
			_, after, dotted := strings.Cut(local, ".")
			if !dotted {
				continue
			}
			ns = after
			if i := strings.LastIndexByte(after, '.'); i >= 0 {
				ns = after[i+1:]
			}
		} else if name != host {
			continue
		}
		k.note(mesh.Hostname{Namespace: ns, Host: name}.String(), n)
		if strings.HasSuffix(host, suffix) {
			return // it is not a short one
		}
	}
}

// want notes what is to be known of the destination and is not: anything at all,
// or whether there is more at an address than the block around it.
func (d *decider) want(namespace string, target mesh.Authority, dest *config.Destination) {
	switch {
	case !target.IP.IsValid() && dest == nil:
		d.wanted.host(namespace, target.Host, d.domain, forPlace)
	case !target.IP.IsValid() || target.IP.IsLoopback():
	case dest == nil:
		d.wanted.address(d.network, target, forPlace)
	case dest.Service != nil && !slices.ContainsFunc(dest.Service.Addresses, func(p mesh.Prefix) bool {
		return p.Network == d.network && p.Prefix.IsSingleIP() && p.Prefix.Addr() == target.IP
	}):
		d.wanted.address(d.network, target, forWay)
	}
}

// demand asks for the next name that is wanted, and has then called on the loop
// once there was an answer, or why there was none. It is not called within demand.
func (w *worker) demand(k *wanted, asking *count, then func(error)) (cancel func()) {
	name, wait := k.next, w.options.DemandTimeout
	k.next, k.asked = "", append(k.asked, name)
	now := time.Now()
	if k.until.IsZero() {
		k.until = now.Add(wait)
	}
	until := k.until
	if limit := now.Add(labelWait); k.need == forLabels && limit.Before(until) {
		until = limit
	}
	ctx, cancel := context.WithDeadline(context.Background(), until)
	if !asking.take(maxAsking) {
		cancel()
		w.loop.Do(func() { then(errAsking) })
		return cancel
	}
	w.serving.Go(func() {
		defer cancel()
		err := w.options.Demand(ctx, name)
		asking.release()
		if err != nil {
			err = fmt.Errorf("%w: %s: %w", errNotTold, name, err)
		}
		w.loop.Do(func() { then(err) })
	})
	return cancel
}

// start decides where the connection goes, once all that takes is known.
func (o *outbound) start() {
	r, err := o.decide()
	k := &o.search.wanted
	if k.next == "" {
		o.connect(r, err)
		return
	}
	need := k.need
	o.cancel = o.worker.demand(k, &o.worker.askingFrom, func(err error) {
		if o.over {
			return
		}
		o.cancel = nil
		if err != nil && need == forPlace {
			o.fail(err) // it may be for a waypoint, or for mTLS: it must not pass plainly
			return
		}
		o.start()
	})
}

// begin judges what has come to the pod, once all that takes is known.
func (i *inbound) begin() {
	w := i.worker
	if i.want(); i.wanted == nil || i.wanted.next == "" {
		if i.plain != nil {
			i.admitted(w.admitPlaintext(i, i.in.Local))
		} else {
			i.admitted(i.admit())
		}
		return
	}
	w.inbound[i] = struct{}{}
	need := i.wanted.need
	i.cancel = w.demand(i.wanted, &w.askingTo, func(err error) {
		if i.over {
			return
		}
		i.cancel = nil
		if err != nil && need == forLabels {
			w.unlabelled = time.Now().Add(labelPause)
		}
		i.begin()
	})
}

// want notes what the connection says and nothing is known of: who is at the
// client's address, and what it is for, if that is not the pod.
func (i *inbound) want() {
	w := i.worker
	o := &w.options
	if o.Demand == nil || w.cutting {
		i.wanted = nil
		return
	}
	snap := o.Store.Snapshot()
	dest := i.pod.destination(snap)
	if dest == nil {
		return
	}
	if i.wanted == nil {
		i.wanted = &wanted{}
	}
	k, a, src := i.wanted, i.in.Authority, i.in.Source.Addr()
	if !i.fromGateway() && src.IsValid() && !src.IsLoopback() && snap.Workload(o.Network, src) == nil && !time.Now().Before(w.unlabelled) {
		k.address(o.Network, mesh.Authority{IP: src}, forLabels)
	}
	switch {
	case i.plain != nil:
	case !a.IP.IsValid():
		if snap.Lookup(o.Network, dest.Workload.Namespace, a) == nil {
			k.host(dest.Workload.Namespace, a.Host, o.ClusterDomain, forWay)
		}
	case a.IP != i.in.Local.Addr() && dest.Workload.AppTunnel == nil:
		d := snap.Lookup(o.Network, i.in.Peer.Namespace, a)
		if d == nil {
			k.address(o.Network, a, forWay)
			return
		}
		for _, gw := range waypointsBefore(d) {
			if snap.Gateway(gw) == nil {
				k.gateway(gw)
			}
		}
	}
}

// waypointsBefore returns the waypoints by which a destination may be reached.
func waypointsBefore(d *config.Destination) []*mesh.GatewayAddress {
	switch {
	case d.Service != nil:
		return d.Service.Waypoints()
	case d.Workload.Waypoint != nil:
		return []*mesh.GatewayAddress{d.Workload.Waypoint}
	}
	return nil
}
