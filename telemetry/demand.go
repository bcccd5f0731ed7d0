package telemetry

import (
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A lookups counts connections to workloads that are known by their host names
// only, by who made them and the name.
type lookups struct {
	ledger[lookup, lookedUp, *lookedUp]
}

// A lookup is what a series of lookups has for labels.
type lookup struct {
	workload, canonical, revision, namespace, principal, cluster string // of the client
	hostname                                                     string
}

//nolint:unused // it is the ledger's
type lookedUp struct {
	use
	n atomic.Uint64
}

// OnDemandDNS counts a connection of source's to a workload for whose address the
// name had to be asked for.
func (t *Telemetry) OnDemandDNS(source *mesh.Workload, hostname string) {
	k := lookup{
		workload: workloadName(source), canonical: canonicalName(source), revision: canonicalRevision(source),
		namespace: source.Namespace, principal: principal(source.Identity()), cluster: source.ClusterID, hostname: hostname,
	}
	t.lookups.at(&k).n.Add(1)
}

func (k lookup) clone() lookup {
	for _, s := range [...]*string{&k.workload, &k.canonical, &k.revision, &k.namespace, &k.principal, &k.cluster, &k.hostname} {
		*s = strings.Clone(*s)
	}
	return k
}

// overflow is one.
func (k lookup) overflow() lookup {
	const o = "overflow"
	return lookup{o, o, o, o, o, o, o}
}

var lookupFamily = prometheus.NewDesc("istio_on_demand_dns_total", "Connections to workloads whose names had to be looked up.", []string{
	"source_workload", "source_canonical_service", "source_canonical_revision", "source_workload_namespace",
	"source_principal", "source_app", "source_version", "source_cluster", "hostname",
}, nil)

// Describe implements [prometheus.Collector].
func (l *lookups) Describe(ch chan<- *prometheus.Desc) { ch <- lookupFamily }

// Collect implements [prometheus.Collector].
func (l *lookups) Collect(ch chan<- prometheus.Metric) {
	l.mu.Lock()
	list := make([]prometheus.Metric, 0, len(l.entries))
	for k, e := range l.entries {
		list = append(list, prometheus.MustNewConstMetric(lookupFamily, prometheus.CounterValue, float64(e.n.Load()),
			label(k.workload, unknown), label(k.canonical, unknown), label(k.revision, unknown), label(k.namespace, unknown),
			label(k.principal, unknown), label(k.canonical, unknown), label(k.revision, unknown), label(k.cluster, unknown),
			label(k.hostname, unknown)))
	}
	l.mu.Unlock()
	for _, m := range list {
		ch <- m
	}
}
