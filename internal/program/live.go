package program

import (
	"sync"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/telemetry"
)

// A living answers whether metrics are still of interest: of a workload, whether
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

func (l *living) telemetry() telemetry.Living {
	return telemetry.Living{Workload: l.workload, Service: l.service}
}

// workload gathers the labels of a snapshot once, when there is the first question
// about it.
func (l *living) workload(w *mesh.Workload) bool {
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

// service asks by name: it may be another version by now.
func (l *living) service(s *mesh.Service) bool {
	return l.snapshot().Service(mesh.Hostname{Namespace: s.Namespace, Host: s.Hostname}) != nil
}
