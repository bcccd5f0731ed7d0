package ztunnel

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// recheck judges again every tunnel that a change concerns: its pod's policies
// or labels are others now, or there is somebody else at the client's address.
// Whether a waypoint is required depends on services too. And it ends what goes
// to pods that are gone.
func (w *worker) recheck(changes config.Changes) {
	w.endGone(changes.Workloads)
	if len(w.inbound) == 0 {
		return
	}
	sources := map[*mesh.Workload]*mesh.Workload{}
	for _, c := range changes.Workloads {
		if c.Old != nil {
			sources[c.Old] = c.New
		}
	}
	for i := range w.inbound {
		if err := i.concerned(changes, sources); err != nil {
			i.reset(err)
		}
	}
}

// endGone ends connections to pods that are gone, after Options.GoneGrace, and lets
// go of the connections that tunnels to them shared. A pod is removed when its
// containers have ended: it is not there to say so itself, and its address may soon
// be another's. Without that, a peer's silence would be noticed within 30 s by PING,
// and that of a plain connection much later. What is being dialled goes elsewhere at
// once.
//
// What is no pod may be there all the same: it was only taken out of the mesh.
func (w *worker) endGone(changes []config.WorkloadChange) {
	var uids map[string]bool
	var addrs []netip.Addr
	for _, c := range changes {
		if c.New != nil || c.Old == nil || !isPod(c.Old) {
			continue
		}
		if uids == nil {
			uids = map[string]bool{}
		}
		uids[c.Old.UID] = true
		addrs = append(addrs, c.Old.Addresses...)
	}
	if uids == nil {
		return
	}
	to := func(o *outbound) bool { d := o.route.dest; return d != nil && uids[d.UID] }
	var open []*outbound
	for o := range w.outbound {
		switch {
		case !to(o):
		case o.cancel == nil:
			open = append(open, o)
		default:
			o.destGone()
		}
	}
	if open != nil {
		end := loop.Timer{F: func() {
			for _, o := range open {
				if _, still := w.outbound[o]; still && to(o) {
					o.destGone()
				}
			}
		}}
		w.loop.After(&end, w.options.GoneGrace)
	}
	for _, pool := range w.pools {
		pool.Retire(func(k hbone.Key) bool { return slices.Contains(addrs, k.Addr.Addr()) })
	}
}

// isPod reports whether a workload is a pod, by its UID: cluster//Pod/namespace/name.
func isPod(w *mesh.Workload) bool { return strings.Contains(w.UID, "//Pod/") }

// destGone is told that who the connection goes to is gone. One that is not there
// yet goes to another, if it may.
func (o *outbound) destGone() {
	if cancel := o.cancel; cancel != nil {
		cancel()
		o.failed(errDestGone)
		return
	}
	o.reset(errDestGone)
}

// concerned takes note of what a change means for the tunnel, and returns why it
// must not go on, if it must not.
func (i *inbound) concerned(changes config.Changes, sources map[*mesh.Workload]*mesh.Workload) error {
	if i.dest == nil {
		return nil // it is not judged yet
	}
	dest, changed := changes.Destinations[i.dest]
	if changed && dest == nil {
		return errGone
	}
	if changed {
		i.dest = dest
	}
	source, moved := sources[i.source]
	if moved {
		was := i.source
		i.source = source
		// The client that this tunnel was for runs as somebody else now, or its
		// address is another's. That it is only gone is for its own node to see.
		if source != nil && was.Identity() == i.in.Peer && source.Identity() != i.in.Peer {
			return errPolicyChanged
		}
	}
	if (changed || i.worker.options.RequireWaypoint) && i.judge() != nil {
		return errPolicyChanged
	}
	return nil
}
