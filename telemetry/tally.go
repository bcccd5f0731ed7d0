package telemetry

import (
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// A tally counts what policies decide, by policy and rule. Its labels come from
// the configuration, so there are few.
type tally struct {
	ledger[mark, cell, *cell]
}

// A mark is what a series of a tally counts: its labels as they come, so that one
// that is known is found without making them.
type mark struct {
	family       verdictFamily
	denied       bool   // enforced: denied
	policy, rule string // rule is, of a trial, the policy replaced
	kind, result string // the action or the reason; what came of it
}

//nolint:unused // it is the ledger's
type cell struct {
	use
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

// rehearse counts what was tried and not enforced. Of most records there is
// nothing.
func (t *tally) rehearse(d *Decision) {
	if d.DryAllow.Result != "" {
		t.count(mark{family: rehearsals, denied: d.Denied, policy: d.DryAllow.Policy, rule: d.DryAllow.Rule, kind: "ALLOW", result: d.DryAllow.Result})
	}
	if d.DryDeny.Result != "" {
		t.count(mark{family: rehearsals, denied: d.Denied, policy: d.DryDeny.Policy, rule: d.DryDeny.Rule, kind: "DENY", result: d.DryDeny.Result})
	}
	for i := range d.Trials {
		c := &d.Trials[i]
		t.count(mark{family: trials, policy: c.Policy, rule: c.Replaces, result: c.result(d.Denied)})
	}
}

// enforce counts what was refused.
func (t *tally) enforce(d *Decision) {
	if d.Denied {
		t.count(mark{family: denials, policy: d.Policy, rule: d.Rule, kind: string(d.Reason)})
	}
}

func (t *tally) count(m mark) { t.at(&m).n.Add(1) }

func (m mark) clone() mark {
	for _, s := range [...]*string{&m.policy, &m.rule, &m.kind, &m.result} {
		*s = strings.Clone(*s)
	}
	return m
}

// overflow has no names: there are as many as results.
func (m mark) overflow() mark {
	return mark{m.family, m.denied, "overflow/overflow", "overflow", m.kind, m.result}
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
