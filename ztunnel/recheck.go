package ztunnel

import (
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// recheck judges again every tunnel that a change concerns: its pod's policies
// or labels are others now, or the client it came from is.
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
		dest, changed := changes.Destinations[i.dest]
		source, moved := sources[i.source]
		if !changed && !moved {
			continue
		}
		if moved {
			i.source = source
		}
		if changed {
			if dest == nil {
				i.reset(errGone)
				continue
			}
			i.dest = dest
		}
		if i.judge() != nil {
			i.reset(errPolicyChanged)
		}
	}
}
