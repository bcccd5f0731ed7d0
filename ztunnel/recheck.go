package ztunnel

import (
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// recheck judges again every tunnel that a change concerns: its pod's policies
// or labels are others now, or there is somebody else at the client's address.
// Whether a waypoint is required depends on services too.
func (w *worker) recheck(changes config.Changes) {
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

// concerned takes note of what a change means for the tunnel, and returns why it
// must not go on, if it must not.
func (i *inbound) concerned(changes config.Changes, sources map[*mesh.Workload]*mesh.Workload) error {
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
