package telemetry

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A tally counts what policies decide, by policy and rule. Its labels come from
// the configuration, so there are few: its entries are its series.
type tally struct {
	// Immutable.
	limit  int
	retain time.Duration

	index[mark, cell] // guarded by mu, but for its view

	mu         sync.Mutex
	overflowed atomic.Uint64 // counted without a name, for want of room
}

// A mark is what a series of a tally counts: its labels as they come, so that one
// that is known is found without making them.
type mark struct {
	family       verdictFamily
	denied       bool   // enforced: denied
	policy, rule string // rule is, of a trial, the policy replaced
	kind, result string // the action or the reason; what came of it
}

type cell struct {
	usage
	n atomic.Uint64
}

// A verdictFamily is a metric of a tally.
type verdictFamily uint8

const (
	denials verdictFamily = iota
	rehearsals
	trials
)

// verdictFamilies describes them; labels are those of mark.labels.
var verdictFamilies = [...]*prometheus.Desc{
	denials: prometheus.NewDesc("waystone_authz_denied_total", "What policy refused, by the policy and the rule.",
		[]string{"policy_namespace", "policy", "rule", "reason"}, nil),
	rehearsals: prometheus.NewDesc("waystone_authz_dry_run_total", "What the policies under dry run would have done, beside what was done.",
		[]string{"policy_namespace", "policy", "rule", "action", "result", "enforced"}, nil),
	trials: prometheus.NewDesc("waystone_authz_trial_total", "What would have been decided with a policy under dry run in the place of another.",
		[]string{"policy_namespace", "policy", "replaces", "result"}, nil),
}

func newTally(limit int, retain time.Duration) *tally {
	t := &tally{limit: limit, retain: retain}
	t.init()
	return t
}

// rehearse counts what was tried and not enforced. Of most records there is
// nothing.
func (t *tally) rehearse(d *Decision) {
	if d.DryAllow.Result != "" {
		t.add(mark{family: rehearsals, denied: d.Denied, policy: d.DryAllow.Policy, rule: d.DryAllow.Rule, kind: "ALLOW", result: d.DryAllow.Result})
	}
	if d.DryDeny.Result != "" {
		t.add(mark{family: rehearsals, denied: d.Denied, policy: d.DryDeny.Policy, rule: d.DryDeny.Rule, kind: "DENY", result: d.DryDeny.Result})
	}
	for i := range d.Trials {
		c := &d.Trials[i]
		t.add(mark{family: trials, policy: c.Policy, rule: c.Replaces, result: c.result(d.Denied)})
	}
}

// enforce counts what was refused.
func (t *tally) enforce(d *Decision) {
	if d.Denied {
		t.add(mark{family: denials, policy: d.Policy, rule: d.Rule, kind: string(d.Reason)})
	}
}

func (t *tally) add(m mark) {
	if c := t.known(&m); c != nil && c.touch() {
		c.n.Add(1)
		return
	}
	t.miss(&m)
}

func (t *tally) miss(m *mark) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.entries[*m]
	if c == nil && len(t.entries) >= t.limit {
		// There is always room for these: there are as many as results.
		t.overflowed.Add(1)
		m = &mark{m.family, m.denied, "overflow/overflow", "overflow", m.kind, m.result}
		c = t.entries[*m]
	}
	if c == nil {
		c = new(cell)
		t.entries[m.clone()] = c
	}
	c.state.Store(used)
	c.n.Add(1)
	t.missedLocked()
}

// clone returns a copy of m that owns its strings.
func (m *mark) clone() mark {
	c := *m
	for _, s := range [...]*string{&c.policy, &c.rule, &c.kind, &c.result} {
		*s = strings.Clone(*s)
	}
	return c
}

// sweep removes what has not been counted in for as long as is retained.
func (t *tally) sweep(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	removed := false
	for m, c := range t.entries {
		if _, spent := c.sweep(now, t.retain); spent {
			delete(t.entries, m)
			removed = true
		}
	}
	if removed {
		t.publishLocked()
	}
}

func (t *tally) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.entries)
}

// Describe implements [prometheus.Collector].
func (t *tally) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range verdictFamilies {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (t *tally) Collect(ch chan<- prometheus.Metric) {
	t.mu.Lock()
	list := make([]prometheus.Metric, 0, len(t.entries))
	for m, c := range t.entries {
		list = append(list, prometheus.MustNewConstMetric(verdictFamilies[m.family], prometheus.CounterValue, float64(c.n.Load()), m.labels()...))
	}
	t.mu.Unlock()
	for _, m := range list {
		ch <- m
	}
}

// labels returns the values of the labels of m's family: "none" where no rule
// matched, since to Prometheus "" is absent.
func (m *mark) labels() []string {
	namespace, policy, ok := strings.Cut(m.policy, "/")
	if !ok {
		namespace, policy = "", m.policy
	}
	values := []string{label(namespace, "none"), label(policy, "none")}
	switch m.family {
	case denials:
		return append(values, label(m.rule, "none"), label(m.kind, unknown))
	case rehearsals:
		enforced := "allowed"
		if m.denied {
			enforced = "denied"
		}
		return append(values, label(m.rule, "none"), m.kind, m.result, enforced)
	}
	_, replaced, _ := strings.Cut(m.rule, "/")
	return append(values, label(replaced, m.rule), m.result)
}

// label returns a value of a label, or what stands for "".
func label(value, without string) string {
	if value == "" {
		return without
	}
	return strings.ToValidUTF8(value, "\ufffd")
}
