package enroll

import (
	"cmp"
	"context"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// Workloads tells an Enroller of a node's pods where there is no Kubernetes:
// they are those that the Store has, from files. They have no annotations.
type Workloads struct {
	Store *config.Store
	Node  string
}

// Run tells e until ctx is done.
func (w Workloads) Run(ctx context.Context, e *Enroller) {
	changed := make(chan struct{}, 1)
	w.Store.OnPublish(func(config.Changes) { signal(changed) })
	select {
	case <-w.Store.Ready():
	case <-ctx.Done():
		return
	}
	told := map[string]*mesh.Workload{}
	for {
		now := map[string]*mesh.Workload{}
		for _, l := range w.Store.Snapshot().Local(w.Node) {
			now[l.UID] = l
			if told[l.UID] != l {
				e.Set(podOf(l))
			}
		}
		for uid := range told {
			if now[uid] == nil {
				e.Delete(uid)
			}
		}
		told = now
		e.Synced()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// podOf reads a workload. One that speaks HBONE itself is not captured.
func podOf(w *mesh.Workload) Pod {
	return Pod{
		UID: w.UID, Name: w.Name, Namespace: w.Namespace, ServiceAccount: cmp.Or(w.ServiceAccount, "default"),
		Addresses: w.Addresses,
		Wanted:    w.Tunnel == mesh.HBONE && !w.NativeTunnel && !w.HostNetwork,
	}
}
