package waypoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/decisions"
	"github.com/waystone-mesh/waystone/internal/extauthz"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/telemetry"
)

const rigDeny = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-put, namespace: default}
spec:
  targetRefs: [{kind: Service, group: "", name: items}]
  action: DENY
  rules: [{to: [{operation: {methods: [PUT]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all, namespace: default}
spec:
  targetRefs: [{kind: Service, group: "", name: items}]
  rules: [{}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: strict, namespace: default, annotations: {istio.io/dry-run: "true", waystone.dev/replaces: all}}
spec:
  targetRefs: [{kind: Service, group: "", name: items}]
  rules: [{to: [{operation: {methods: [PUT]}}]}]
`

// explaining returns a rig whose decisions are kept, and whose log says why.
func explaining(t *testing.T) (r *rig, recent *decisions.Recent, logged func() []map[string]any) {
	t.Helper()
	recent = decisions.New(100)
	text := &lines{}
	w, err := telemetry.NewWriter(telemetry.WriterOptions{Output: text, Linger: -1})
	if err != nil {
		t.Fatal(err)
	}
	r = newRig(t, func(o *Options) {
		o.Recent = recent
		o.Telemetry, err = telemetry.New(telemetry.Options{
			Program: telemetry.Waypoint, AccessLog: w, Keys: []string{"policy", "explanation", "dry_run_allow", "trials"},
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { _ = w.Close(context.Background()) })
	return r, recent, func() (all []map[string]any) {
		if err := w.Flush(context.Background()); err != nil {
			t.Fatal(err)
		}
		text.mu.Lock()
		defer text.mu.Unlock()
		for line := range strings.Lines(text.b.String()) {
			var v map[string]any
			if err := json.Unmarshal([]byte(line), &v); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			all = append(all, v)
		}
		return all
	}
}

// kept returns what is kept, the newest first.
func kept(t *testing.T, recent *decisions.Recent) []decisions.Row {
	t.Helper()
	v, err := recent.Query(url.Values{})
	if err != nil {
		t.Fatal(err)
	}
	return v.(decisions.Answer).Decisions
}

// TestDecisionsAreExplained looks at what is kept and logged of a request that was
// refused and of one that was not.
func TestDecisionsAreExplained(t *testing.T) {
	r, recent, logged := explaining(t)
	r.apply(rigDeny)
	var w *wire
	r.do(func() {
		w = r.open()
		w.arrive("PUT /a?secret=1 HTTP/1.1\r\nHost: items\r\nContent-Length: 0\r\nX-Request-Id: r1\r\n\r\n")
	})
	r.do(func() { w.arrive("GET /b HTTP/1.1\r\nHost: items\r\nX-Request-Id: r2\r\n\r\n") })
	r.do(func() { r.dials[0].connected().arrive("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n") })
	list := kept(t, recent)
	if len(list) != 2 {
		t.Fatalf("%d decisions are kept, want 2", len(list))
	}
	got, denied := list[0], list[1]
	if !got.Allowed || got.Status != 201 || got.RequestID != "r2" || got.Explanation.Decided.Policy != "default/all" {
		t.Errorf("of what was allowed: %+v, %+v", got, got.Explanation)
	}
	if denied.Allowed || denied.Status != 403 || denied.RequestID != "r1" || denied.Path != "/a" || denied.Method != "PUT" || denied.Host != "items" ||
		denied.Source != "spiffe://cluster.local/ns/default/sa/web" || denied.SourceIP.String() != "10.0.0.8" || denied.Destination != "items.default.svc.cluster.local:80" ||
		denied.Explanation.Decided.Policy != "default/no-put" {
		t.Errorf("of what was refused: %+v, %+v", denied, denied.Explanation)
	}
	want := []map[string]any{
		{"policy": "ns[default]-policy[no-put]-rule[0]", "explanation": "denied by AuthorizationPolicy default/no-put rule 0: to.operation.methods is PUT"},
		{"policy": "ns[default]-policy[all]-rule[0]", "explanation": nil},
	}
	for i, line := range logged() {
		for key, v := range want[i] {
			if s, ok := line[key].(string); ok && !strings.HasPrefix(s, v.(string)) || v == nil && line[key] != nil {
				t.Errorf("line %d: %s is %v, want %v", i, key, line[key], v)
			}
		}
		if line["dry_run_allow"] == nil || line["trials"] == nil {
			t.Errorf("line %d says nothing of a dry run: %v", i, line)
		}
	}
	r.do(func() { w.eof() })
	r.wantNothingLeft()
}

// TestAuthorizersAnswersAreExplained looks at what is kept of requests that an
// authorizer refused, or did not answer.
func TestAuthorizersAnswersAreExplained(t *testing.T) {
	r, recent, logged := explaining(t)
	r.consult(shown(10, false))
	var w *wire
	ask := func(length string) func() {
		return func() { w.arrive("POST /a HTTP/1.1\r\nHost: items\r\nContent-Length: " + length + "\r\n\r\n") }
	}
	r.do(func() { w = r.open() })
	r.do(ask("0"))
	r.do(func() { r.asked[0].say(extauthz.Answer{Status: 401}) })
	r.do(ask("0"))
	r.do(func() { r.asked[1].answer(errors.New("connection refused")) })
	r.do(ask("0"))
	r.do(func() { r.asked[2].say(extauthz.Answer{Allowed: true}) })
	r.do(func() { r.dials[0].connected().arrive("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") })
	r.do(func() { r.w.options.Authorizer = func(string) *extauthz.Client { return nil } })
	r.do(ask("0"))
	r.apply(strings.ReplaceAll(strings.ReplaceAll(rigPolicy, "NAME", "lost"), "[{}]", "[{to: [{operation: {methods: [POST]}}]}]"))
	r.do(ask("0")) // there is no such provider, so nobody else is asked either
	var refused []string
	for _, d := range kept(t, recent) {
		if !d.Allowed {
			refused = append(refused, d.Provider)
		}
	}
	if got, want := strings.Join(refused, "; "), "; asked: there is no such authorizer; asked: connection refused; asked: denied"; got != want {
		t.Errorf("kept is %q, want %q", got, want)
	}
	const rule = "istio-ext-authz-asked-ns[default]-policy[asked]-rule[0]"
	want := []any{
		"denied by the authorizer asked, asked by " + rule,
		"denied, for want of an answer by " + rule + ": connection refused",
		nil,
		"denied: there is no authorizer asked to ask by " + rule,
		"denied: there is no provider lost to ask by AuthorizationPolicy default/lost rule 0: to.operation.methods is POST",
	}
	for i, line := range logged() {
		if line["explanation"] != want[i] {
			t.Errorf("line %d: the explanation is %v, want %v", i, line["explanation"], want[i])
		}
	}
	r.do(func() { w.eof() })
	r.wantNothingLeft()
}

// TestTokensAndContentAreExplained looks at what is kept of requests with a token
// that is not valid, and with more content than an authorizer takes. What the
// authorizer says cannot be written is left out.
func TestTokensAndContentAreExplained(t *testing.T) {
	r, recent, logged := explaining(t)
	r.apply(fmt.Sprintf(TakesTokens, "jwks: '"+NewIssuer(1).Keys()+"'"))
	r.consult(shown(10, false))
	var w *wire
	r.do(func() {
		w = r.open()
		w.arrive("POST /a HTTP/1.1\r\nHost: items\r\nContent-Length: 11\r\n\r\nhello world")
		w.arrive("GET /b HTTP/1.1\r\nHost: items\r\nAuthorization: Bearer secret\r\n\r\n")
	})
	r.do(func() { r.asked[0].say(extauthz.Answer{Allowed: true}) })
	r.do(func() { w.arrive("HEAD /c HTTP/1.1\r\nHost: items\r\n\r\n") })
	r.do(func() {
		r.asked[1].say(extauthz.Answer{Status: 403, Fields: l7.Fields{{Name: "x", Value: "a\x01"}, {Name: "y", Value: "b"}}, Body: []byte("no")})
	})
	list := kept(t, recent)
	if len(list) != 3 || list[2].Provider != "asked: there is more content than it takes" || list[1].Token != "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections" ||
		list[0].Provider != "asked: denied" {
		t.Errorf("kept is %+v", list)
	}
	for i, line := range logged() {
		if why, _ := line["explanation"].(string); !strings.HasPrefix(why, "denied") || strings.Contains(why, "secret") {
			t.Errorf("line %d: the explanation is %q", i, why)
		}
	}
	if got := string(w.out); !strings.Contains(got, "HTTP/1.1 413 ") || !strings.Contains(got, "HTTP/1.1 401 ") || !strings.Contains(got, "HTTP/1.1 403 ") || strings.Contains(got, "a\x01") {
		t.Errorf("the client got %q", got)
	}
	r.do(func() { w.eof() })
	r.wantNothingLeft()
}

// TestExcerpt says how much of its content a request waits with.
func TestExcerpt(t *testing.T) {
	for _, c := range []struct {
		name         string
		max          int
		part         bool
		held, length int
		ended        bool
		want         excerpt
	}{
		{"none is wanted", 0, false, 5, 5, true, excerpt{}},
		{"there is none", 10, false, 0, 0, true, excerpt{}},
		{"nothing yet", 10, false, 0, -1, false, excerpt{need: 11}},
		{"a part is enough, nothing yet", 10, true, 0, -1, false, excerpt{need: 10}},
		{"all, and no more", 10, false, 10, 10, true, excerpt{bytes: 10}},
		{"all, but its end", 10, false, 10, -1, false, excerpt{need: 11}},
		{"all, but its end, as declared", 10, false, 10, 10, false, excerpt{need: 11}},
		{"more", 10, false, 11, -1, false, excerpt{bytes: 10, partial: true, tooLong: true}},
		{"more, and all", 10, false, 11, 11, true, excerpt{bytes: 10, partial: true, tooLong: true}},
		{"more, it says", 10, false, 0, 11, false, excerpt{tooLong: true}},
		{"a part", 10, true, 10, -1, false, excerpt{bytes: 10, partial: true}},
		{"a part, that is all", 10, true, 10, 10, false, excerpt{bytes: 10}},
		{"a part, of all", 10, true, 12, 12, true, excerpt{bytes: 10, partial: true}},
		{"less than a part, and all", 10, true, 9, 9, true, excerpt{bytes: 9}},
		{"more than may be held", 1000, true, 100, 1000, false, excerpt{bytes: 100, partial: true}},
		{"more than may be held, all of it", 1000, false, 101, -1, false, excerpt{bytes: 100, partial: true, tooLong: true}},
	} {
		x := &exchange{requestEnded: c.ended}
		x.req.Length = int64(c.length)
		x.held.Append(make([]byte, c.held))
		p := &authz.Provider{}
		if c.max > 0 {
			p.Body = &authz.Body{Max: c.max, AllowPartial: c.part}
		}
		if got := x.excerpt(p, 100); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
		x.held.Clear()
	}
}
