package telemetry

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A key finds the series of a record without making its labels. Workloads and
// services stand for themselves: they are immutable, so the same pointer yields
// the same labels.
type key struct {
	kind             kind
	reporter         Reporter
	mtls             bool
	grpc, grpcStatus int8 // grpcStatus is -1 when the call had none
	status           int16
	flag             Flag
	source, dest     *mesh.Workload
	service          *mesh.Service
	serviceHost      mesh.Hostname
	sourceID, destID identity.ID
	overflow         bool // stands for all that there is no room for
}

// A kind is a set of families with the same labels.
type kind uint8

const (
	exchanges   kind = iota // istio_requests_total and its histograms
	messages                // istio_request_messages_total, istio_response_messages_total
	connections             // istio_tcp_*
)

// A series is one set of labels and the counters that have it. Only one of the
// pointers to counters is set.
type series struct {
	// Immutable.
	kind     kind
	reporter Reporter
	flagged  bool   // it has a response flag
	name     string // its labels, as one string
	labels   []*dto.LabelPair

	exchange   *exchangeCounters
	message    *messageCounters
	connection *connectionCounters

	// open is how many records hold the series and will still count in it.
	open atomic.Int64

	// Guarded by table.mu.
	source, dest *mesh.Workload // of the record that last made an entry
	service      *mesh.Service  // likewise
	entries      int
	used         time.Time
}

// An entry is a key's series.
type entry struct {
	use
	series *series
}

// A table holds every series. Finding one that is known takes no lock.
//
// There are two levels. Entries are found by key, and are many: each pod has
// its own, and each version of it. Series are found by labels, which the pods of
// a deployment share, and they are what a scrape sees; one is kept while its
// workloads live, since to delete and remake a counter looks like a reset.
type table struct {
	// Immutable.
	limit   int // of series
	retain  time.Duration
	live    Living
	cluster string

	index[key, entry, *entry] // guarded by mu, but for its view

	// Guarded by mu.
	mu     sync.Mutex
	series map[string]*series // by name

	overflowed atomic.Uint64 // records that went to an overflow series
}

func newTable(limit int, retain time.Duration, live Living, cluster string) *table {
	t := &table{limit: limit, retain: retain, live: live, cluster: cluster, series: map[string]*series{}}
	t.init()
	return t
}

// find returns the series of k, which is made if need be.
func (t *table) find(k *key) *series {
	if e := t.known(k); e != nil && e.touch() {
		return e.series
	}
	return t.miss(k)
}

func (t *table) miss(k *key) *series {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[*k]
	if e == nil {
		e = t.addLocked(k)
	}
	if e == nil {
		t.overflowed.Add(1)
		k = &key{
			kind: k.kind, reporter: k.reporter, mtls: k.mtls, grpc: k.grpc, grpcStatus: -1,
			status: k.status, overflow: true,
		}
		if e = t.entries[*k]; e == nil {
			e = t.addLocked(k)
		}
	}
	e.state.Store(used)
	t.missedLocked()
	return e.series
}

// addLocked makes the entry of k, and its series if no other entry has it. It
// returns nil when there is no room, which for an overflow series there always
// is: there are as many as status codes.
func (t *table) addLocked(k *key) *entry {
	if len(t.entries) >= 4*t.limit && !k.overflow {
		return nil
	}
	k = k.clone()
	labels := t.labels(k)
	name := nameOf(k.kind, labels)
	s := t.series[name]
	if s == nil {
		if len(t.series) >= t.limit && !k.overflow {
			return nil
		}
		s = newSeries(k, name, labels)
		t.series[name] = s
	}
	s.source, s.dest, s.service = k.source, k.dest, k.service
	s.entries++
	e := &entry{series: s}
	t.entries[*k] = e
	return e
}

// clone returns a copy of k that owns its strings.
func (k *key) clone() *key {
	c := *k
	for _, s := range [...]*string{
		&c.sourceID.TrustDomain, &c.sourceID.Namespace, &c.sourceID.ServiceAccount,
		&c.destID.TrustDomain, &c.destID.Namespace, &c.destID.ServiceAccount,
		&c.serviceHost.Namespace, &c.serviceHost.Host,
	} {
		*s = strings.Clone(*s)
	}
	return &c
}

func newSeries(k *key, name string, labels []*dto.LabelPair) *series {
	s := &series{kind: k.kind, reporter: k.reporter, flagged: k.flag != 0, name: name, labels: labels}
	switch k.kind {
	case exchanges:
		s.exchange = new(exchangeCounters)
	case messages:
		s.message = new(messageCounters)
	case connections:
		s.connection = new(connectionCounters)
	}
	return s
}

// nameOf returns labels as one string. No value can hold the separator: it is
// not UTF-8.
func nameOf(k kind, labels []*dto.LabelPair) string {
	var b strings.Builder
	b.WriteByte('0' + byte(k))
	for _, l := range labels {
		b.WriteString(l.GetValue())
		b.WriteByte(0xff)
	}
	return b.String()
}

// sweep removes the entries that were idle for as long as series are retained,
// and the series that thereby have none left, unless what they are about lives.
// Entries go whatever lives: one of a workload's former version is never used
// again, and one that is makes itself anew.
func (t *table) sweep(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweepLocked(now, t.retain,
		func(e *entry) { e.series.used = now },
		func(e *entry) { e.series.entries-- })
	for name, s := range t.series {
		if s.entries == 0 && s.open.Load() == 0 && now.Sub(s.used) >= t.retain && !t.lives(s) {
			delete(t.series, name)
		}
	}
}

// lives reports whether all that s is about is in the mesh: both workloads and the
// service. If one of them is gone nothing will count in s again. A series without
// workloads does not live.
func (t *table) lives(s *series) bool {
	l := &t.live
	return (s.source != nil || s.dest != nil) && lives(l.Workload, s.source) && lives(l.Workload, s.dest) && lives(l.Service, s.service)
}

func lives[T any](is func(*T) bool, x *T) bool { return x == nil || is != nil && is(x) }

// all returns every series.
func (t *table) all() []*series {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]*series, 0, len(t.series))
	for _, s := range t.series {
		list = append(list, s)
	}
	return list
}

func (t *table) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.series)
}
