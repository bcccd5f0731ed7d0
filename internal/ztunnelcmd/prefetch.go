package ztunnelcmd

import (
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/program"
)

// prefetch has the certificates of the node's pods at hand before somebody waits
// for them, and forgets those of identities that no pod here has any more.
func prefetch(p *program.Process) error {
	source, ok := p.Identity.(program.Prefetcher)
	if !ok {
		return nil
	}
	changed := make(chan struct{}, 1)
	p.Store.OnPublish(func(c config.Changes) {
		for i := range c.Workloads {
			w := &c.Workloads[i]
			if w.Old != nil && w.Old.Node == p.Options.Node || w.New != nil && w.New.Node == p.Options.Node {
				select {
				case changed <- struct{}{}:
				default: // there is a notice already
				}
				return
			}
		}
	})
	have := map[identity.ID]bool{}
	for {
		want := localIdentities(p.Snapshot(), p.Options.Node)
		for id := range want {
			if !have[id] {
				source.Prefetch(id)
			}
		}
		for id := range have {
			if !want[id] {
				source.Forget(id)
			}
		}
		have = want
		select {
		case <-changed:
		case <-p.Context().Done():
			return nil
		}
	}
}

// localIdentities returns the identities that a node tunnel speaks for: of its pods
// that are in the mesh. Keys of others, of a waypoint's or its own for one, it has
// no business to hold; if one is needed after all, because a peer knows earlier
// that a pod has joined, it is asked for then.
func localIdentities(snap *config.Snapshot, node string) map[identity.ID]bool {
	out := map[identity.ID]bool{}
	for _, w := range snap.Local(node) {
		if w.Tunnel == mesh.HBONE && !w.HostNetwork && !w.NativeTunnel && len(w.Addresses) > 0 {
			out[w.Identity()] = true
		}
	}
	return out
}
