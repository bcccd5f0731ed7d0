package telemetry

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// decisionCases are records that differ in what the further keys of the log tell.
func decisionCases() []any {
	allowed := exchange()
	allowed.Attempts = 1
	allowed.Decision = Decision{
		Rule: "ns[bookinfo]-policy[readers]-rule[1]", Policy: "bookinfo/readers", RequestPrincipal: "https://issuer.example.com/alice",
		DryAllow: Rehearsal{"denied", "", ""},
		DryDeny:  Rehearsal{"denied", "ns[bookinfo]-policy[no-put]-rule[0]", "bookinfo/no-put"},
		Trials: []Trial{
			{"bookinfo/readers-2", "bookinfo/readers", true},
			{"bookinfo/readers-3", "bookinfo/readers", false},
		},
	}
	allowed.trace, _ = traceID()

	denied := exchange()
	denied.Dest, denied.Status, denied.Source = nil, 403, nil
	denied.Decision = Decision{
		Denied: true, Reason: ByNoAllowRule,
		Why:    `denied: no ALLOW rule matches; nearest AuthorizationPolicy bookinfo/readers rule 0: to.operation.paths wanted /a, saw "/b c"`,
		Trials: []Trial{{"bookinfo/readers-2", "bookinfo/readers", true}},
	}

	anonymous := exchange()
	anonymous.SourceID, anonymous.LocalID = account("", ""), account("", "")
	anonymous.SourceID.TrustDomain, anonymous.LocalID.TrustDomain = "", ""
	anonymous.Dest = &mesh.Workload{Name: "pod", Namespace: "n"}

	// Nothing of a request may forge a column, a key or a line.
	hostile := exchange()
	hostile.Decision = Decision{
		Denied: true, Reason: ByDenyRule, Rule: "ns[a b]-policy[\"]-rule[0]", Policy: "a b/\"",
		RequestPrincipal: "evil\" policy=x\n/\x00", Why: "saw \"x\"\n\t[]",
	}

	tunnel := connection(ByWaypoint)
	tunnel.Decision = Decision{Denied: true, Reason: ByDenyRule, Rule: "ns[bookinfo]-policy[no]-rule[0]", Policy: "bookinfo/no"}

	return []any{allowed, denied, anonymous, hostile, tunnel, &HTTP{}}
}

func traceID() ([16]byte, bool) {
	t, ok := ParseTraceparent("00-" + traceHex + "-" + spanHex + "-01")
	return t.ID, ok
}

func TestAccessLogLinesWithFurtherKeys(t *testing.T) {
	for _, text := range []bool{false, true} {
		r := newRig(t, Options{Text: text, Keys: KeyNames()})
		for _, rec := range decisionCases() {
			r.report(rec)
		}
		goldenLog(t, "access_keys", !text, r.lines(t))
	}
}

// What stands before the further keys is the line without them, byte for byte.
func TestFurtherKeysFollowTheDefaultLine(t *testing.T) {
	for _, text := range []bool{false, true} {
		plain, more := newRig(t, Options{Text: text}), newRig(t, Options{Text: text, Keys: []string{"policy", "source_principal"}})
		for _, rec := range slices.Concat(accessCases(), decisionCases()) {
			plain.report(rec)
			more.report(rec)
			want, got := strings.TrimSuffix(strings.TrimSuffix(plain.lines(t), "\n"), "}"), more.lines(t)
			rest, ok := strings.CutPrefix(got, want)
			if begin := map[bool]string{false: `,"policy":`, true: " policy="}[text]; !ok || !strings.HasPrefix(rest, begin) {
				t.Errorf("text %v: %q does not begin with %q and %q", text, got, want, begin)
			}
		}
	}
}

// Each column of the further keys is one word, or quoted.
func TestFurtherColumnsCannotBeForged(t *testing.T) {
	r := newRig(t, Options{Text: true, Keys: KeyNames()})
	for _, rec := range decisionCases() {
		r.report(rec)
		line := r.lines(t)
		if strings.Count(line, "\n") != 1 {
			t.Errorf("not one line: %q", line)
		}
		_, columns, _ := strings.Cut(line, " source_principal=")
		columns = "source_principal=" + strings.TrimSuffix(columns, "\n")
		for _, name := range KeyNames() {
			rest, ok := strings.CutPrefix(columns, name+"=")
			if !ok {
				t.Fatalf("%q does not begin with %s, in %q", columns, name, line)
			}
			if quoted, ok := strings.CutPrefix(rest, `"`); ok {
				_, columns, _ = strings.Cut(quoted, `" `)
			} else {
				_, columns, _ = strings.Cut(rest, " ")
			}
		}
		if columns != "" {
			t.Errorf("after the columns there is %q in %q", columns, line)
		}
	}
}

func TestParseKeys(t *testing.T) {
	got, err := ParseKeys(" policy, trace_id ,")
	if err != nil || !slices.Equal(got, []string{"policy", "trace_id"}) {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := ParseKeys(""); got != nil || err != nil {
		t.Errorf("nothing: got %q, %v", got, err)
	}
	for list, want := range map[string]string{
		"polcy":         `key "polcy" is none of source_principal, source_workload, source_namespace, destination_workload, destination_namespace, destination_principal, request_principal, policy, explanation, dry_run_allow, dry_run_deny, trials, trace_id, upstream_attempts`,
		"policy,policy": `key "policy" is named twice`,
	} {
		if _, err := ParseKeys(list); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", list, err, want)
		}
	}
	if _, err := New(Options{Keys: []string{"x"}}); err == nil || !strings.HasPrefix(err.Error(), `access log: key "x" is none of `) {
		t.Errorf("New: got %v, want an error about a key that there is not", err)
	}
}

// The package comment is where keys are explained.
func TestEveryKeyIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range KeyNames() {
		if !strings.Contains(string(doc), "\n//\t"+name+"  ") {
			t.Errorf("doc.go does not tell what %s is", name)
		}
		if slices.Contains(accessKeys[:], name) {
			t.Errorf("%s is a key that the log always has", name)
		}
	}
}

func TestExplainsIsToldByTheKeys(t *testing.T) {
	for _, c := range []struct {
		keys []string
		want bool
	}{{nil, false}, {[]string{"policy"}, false}, {[]string{"policy", "explanation"}, true}} {
		if got := newRig(t, Options{Keys: c.keys}).Explains(); got != c.want {
			t.Errorf("%v: got %v, want %v", c.keys, got, c.want)
		}
	}
	tel, err := New(Options{Keys: []string{"explanation"}, sweep: never})
	if err != nil {
		t.Fatal(err)
	}
	defer tel.Shutdown(t.Context())
	if tel.Explains() {
		t.Error("without a log it explains")
	}
}

// The trace of a line is that of the span, or without tracing the caller's.
func TestTraceIDOfALine(t *testing.T) {
	id := func(r *rig, in carrier) string {
		rec := exchange()
		r.Propagate(rec, in)
		r.HTTP(rec)
		var line struct {
			Trace string `json:"trace_id"`
		}
		if err := json.Unmarshal([]byte(r.lines(t)), &line); err != nil {
			t.Fatal(err)
		}
		return line.Trace
	}
	parent := "00-" + traceHex + "-" + spanHex + "-01"
	plain := newRig(t, Options{Keys: []string{"trace_id"}})
	if got := id(plain, carrier{"traceparent": parent}); got != traceHex {
		t.Errorf("without tracing: %q, want %q", got, traceHex)
	}
	if got := id(plain, carrier{}); got != "" {
		t.Errorf("without tracing or a trace: %q, want none", got)
	}
	with := newRig(t, Options{Keys: []string{"trace_id"}, trace: newTracerTo(TraceOptions{Percent: -1}, sdktrace.WithSyncer(tracetest.NewInMemoryExporter()))})
	out := carrier{}
	if got := id(with, out); got == "" || !strings.Contains(out["traceparent"], got) {
		t.Errorf("with tracing: %q, traceparent %q", got, out["traceparent"])
	}
}
