package telemetry

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// report reports an exchange of which policy made d.
func report(t *Telemetry, d Decision) {
	rec := exchange()
	rec.Decision = d
	t.HTTP(rec)
}

const (
	deniedTotal = "waystone_authz_denied_total"
	dryRunTotal = "waystone_authz_dry_run_total"
	trialTotal  = "waystone_authz_trial_total"
)

func TestDecisionsAreCountedByPolicy(t *testing.T) {
	dry := Rehearsal{"denied", "ns[a]-policy[try]-rule[2]", "a/try"}
	for _, c := range []struct {
		name   string
		d      Decision
		metric string
		want   []string // labels of the one series there is of it, or none
	}{
		{"a DENY rule refuses", Decision{Denied: true, Reason: ByDenyRule, Policy: "a/no", Rule: "ns[a]-policy[no]-rule[0]"}, deniedTotal,
			[]string{`policy_namespace="a"`, `policy="no"`, `rule="ns[a]-policy[no]-rule[0]"`, `reason="denyRule"`}},
		{"no ALLOW rule matches", Decision{Denied: true, Reason: ByNoAllowRule}, deniedTotal,
			[]string{`policy_namespace="none"`, `policy="none"`, `rule="none"`, `reason="noAllowRule"`}},
		{"nobody said why", Decision{Denied: true}, deniedTotal, []string{`policy="none"`, `reason="unknown"`}},
		{"allowed", Decision{Policy: "a/yes", Rule: "r"}, deniedTotal, nil},
		{"a DENY policy under dry run would refuse", Decision{DryDeny: dry}, dryRunTotal,
			[]string{`policy_namespace="a"`, `policy="try"`, `rule="ns[a]-policy[try]-rule[2]"`, `action="DENY"`, `result="denied"`, `enforced="allowed"`}},
		{"an ALLOW policy under dry run would let it pass", Decision{Denied: true, DryAllow: Rehearsal{"allowed", "r", "a/try"}}, dryRunTotal,
			[]string{`policy="try"`, `action="ALLOW"`, `result="allowed"`, `enforced="denied"`}},
		{"no rule under dry run matches", Decision{DryAllow: Rehearsal{Result: "denied"}}, dryRunTotal,
			[]string{`policy_namespace="none"`, `policy="none"`, `rule="none"`, `action="ALLOW"`, `result="denied"`, `enforced="allowed"`}},
		{"no dry run", Decision{Denied: true}, dryRunTotal, nil},
		{"a candidate would do the same", Decision{Trials: []Trial{{"a/new", "a/old", true}}}, trialTotal,
			[]string{`policy_namespace="a"`, `policy="new"`, `replaces="old"`, `result="same"`}},
		{"a candidate refuses likewise", Decision{Denied: true, Trials: []Trial{{"a/new", "a/old", false}}}, trialTotal, []string{`result="same"`}},
		{"a candidate would allow", Decision{Denied: true, Trials: []Trial{{"a/new", "a/old", true}}}, trialTotal, []string{`result="would_allow"`}},
		{"a candidate would deny", Decision{Trials: []Trial{{"a/new", "a/old", false}}}, trialTotal, []string{`result="would_deny"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Options{})
			report(r.Telemetry, c.d)
			report(r.Telemetry, c.d)
			if c.want == nil {
				if n := samples(t, r.Telemetry, c.metric, ""); n != 0 {
					t.Errorf("%d series, want none", n)
				}
				return
			}
			if got := value(t, r.Telemetry, c.metric, c.want...); got != "2" {
				t.Errorf("counted %s, want 2", got)
			}
		})
	}
}

// A tunnel that is open for days tells of a dry run while it is, and once.
func TestConnectionsTellOfADryRunWhileTheyAreOpen(t *testing.T) {
	d := Decision{DryDeny: Rehearsal{"denied", "r", "a/try"}}
	r := newRig(t, Options{})
	known, late := connection(ByWaypoint), connection(ByDestination)
	known.Decision = d
	r.Open(known)
	r.Open(late)
	if got := value(t, r.Telemetry, dryRunTotal, `enforced="allowed"`); got != "1" {
		t.Errorf("opened: %s, want 1", got)
	}
	late.Decision = d
	r.Flush(late)
	r.Flush(late)
	if got := value(t, r.Telemetry, dryRunTotal, `enforced="allowed"`); got != "2" {
		t.Errorf("flushed: %s, want 2", got)
	}
	known.Decision.Denied, known.Decision.Reason = true, ByDenyRule // since policy changed
	r.Close(known)
	r.Close(late)
	if got := value(t, r.Telemetry, dryRunTotal); got != "2" {
		t.Errorf("closed: %s, want 2", got)
	}
	if got := value(t, r.Telemetry, deniedTotal, `reason="denyRule"`); got != "1" {
		t.Errorf("refused: %s, want 1", got)
	}
}

func TestRefusedConnectCountsWhatPolicySaid(t *testing.T) {
	r := newRig(t, Options{})
	rec := exchange()
	rec.Decision = Decision{Denied: true, Reason: ByNoAllowRule, DryAllow: Rehearsal{Result: "denied"}}
	r.ConnectRefused(rec)
	if got := value(t, r.Telemetry, deniedTotal) + value(t, r.Telemetry, dryRunTotal); got != "11" {
		t.Errorf("counted %s, want 1 and 1", got)
	}
}

func TestTalliesAreBounded(t *testing.T) {
	r := newRig(t, Options{MaxSeries: 100}) // ten of them
	refused := func(i int, reason Reason) {
		report(r.Telemetry, Decision{Denied: true, Reason: reason, Policy: fmt.Sprint("a/policy-", i), Rule: "r"})
	}
	for i := range 50 {
		refused(i, ByDenyRule)
	}
	refused(99, ByProvider)
	if got := samples(t, r.Telemetry, deniedTotal, `policy="policy-`); got != 10 {
		t.Errorf("%d series of policies, want 10", got)
	}
	if got := value(t, r.Telemetry, deniedTotal, `policy="overflow"`, `rule="overflow"`, `reason="denyRule"`); got != "40" {
		t.Errorf("overflow: %s, want 40", got)
	}
	if got := value(t, r.Telemetry, deniedTotal, `policy="overflow"`, `reason="provider"`); got != "1" {
		t.Errorf("overflow of another reason: %s, want 1", got)
	}
	if got := value(t, r.Telemetry, "waystone_telemetry_series_overflow_total"); got != "41" {
		t.Errorf("waystone_telemetry_series_overflow_total = %s, want 41", got)
	}
	if got := value(t, r.Telemetry, "waystone_telemetry_series"); got != "13" { // and that of exchanges
		t.Errorf("waystone_telemetry_series = %s, want 13", got)
	}
}

func TestIdleTalliesExpire(t *testing.T) {
	r := newRig(t, Options{Retain: time.Hour})
	now := noon
	pass := func(d time.Duration) {
		for end := now.Add(d); now.Before(end); {
			now = now.Add(15 * time.Minute)
			r.tally.sweep(now)
		}
	}
	old, lasting := Decision{Denied: true, Policy: "a/old"}, Decision{Denied: true, Policy: "a/lasting"}
	report(r.Telemetry, old)
	for range 3 {
		report(r.Telemetry, lasting)
		pass(45 * time.Minute)
	}
	if got := samples(t, r.Telemetry, deniedTotal, `policy="old"`); got != 0 {
		t.Error("a series that idled for two hours is kept for an hour")
	}
	if got := value(t, r.Telemetry, deniedTotal, `policy="lasting"`); got != "3" {
		t.Errorf("counted %s, want 3", got)
	}
	report(r.Telemetry, old)
	if got := value(t, r.Telemetry, deniedTotal, `policy="old"`); got != "1" {
		t.Errorf("counted %s after expiry, want 1", got)
	}
}

// Nothing is lost while policies come and are scraped.
func TestConcurrentTallies(t *testing.T) {
	r := newRig(t, Options{Retain: never})
	const loops, each = 4, 2000
	var all sync.WaitGroup
	for range loops {
		all.Go(func() {
			for i := range each {
				report(r.Telemetry, Decision{Denied: true, Policy: fmt.Sprint("a/policy-", i%20), Reason: ByDenyRule})
				if i%100 == 0 {
					r.tally.sweep(noon)
					gather(t, r.Telemetry)
				}
			}
		})
	}
	all.Wait()
	total := 0
	for _, s := range gather(t, r.Telemetry) {
		if strings.HasPrefix(s, deniedTotal) {
			var n int
			fmt.Sscan(s[strings.LastIndex(s, "} ")+2:], &n)
			total += n
		}
	}
	if total != loops*each {
		t.Errorf("%d counted, want %d", total, loops*each)
	}
}
