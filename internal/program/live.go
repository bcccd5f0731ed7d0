package program

import (
	"sync"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A living answers whether a workload's metrics are still of interest: whether
// there is any that they would be counted under the same labels for.
type living struct {
	snapshot func() *config.Snapshot

	mu      sync.Mutex
	version uint64          // of the snapshot that labels were read from; guarded by mu
	labels  map[labels]bool // guarded by mu; nil before the first question
}

// labels are what metrics tell of a workload.
type labels struct{ cluster, namespace, owner, account, name, revision string }

func labelsOf(w *mesh.Workload) labels {
	return labels{w.ClusterID, w.Namespace, w.OwnerName, w.ServiceAccount, w.CanonicalName, w.CanonicalRevision}
}

// has is telemetry's Options.Live. The labels of a snapshot are gathered once,
// when there is the first question about it.
func (l *living) has(w *mesh.Workload) bool {
	snap := l.snapshot()
	l.mu.Lock()
	defer l.mu.Unlock()
	if v := snap.Version(); l.labels == nil || v != l.version {
		l.version, l.labels = v, map[labels]bool{}
		for w := range snap.Workloads() {
			l.labels[labelsOf(w)] = true
		}
	}
	return l.labels[labelsOf(w)]
}
