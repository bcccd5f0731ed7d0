package opa

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// roleRules is a policy of n rules, of which each lets a role use a path in the
// way that generated policies do, and the last lets the guests in.
func roleRules(n int) string {
	var b strings.Builder
	b.WriteString(`package envoy.authz

import input.attributes.request.http

default allow := false

claims := payload if {
	[_, encoded] := split(http.headers.authorization, " ")
	[_, payload, _] := io.jwt.decode(encoded)
}
`)
	for i := range n - 1 {
		fmt.Fprintf(&b, "\nallow if {\n\thttp.method == \"GET\"\n\tinput.parsed_path[0] == \"service-%d\"\n\t\"role-%d\" in claims.roles\n}\n", i, i%10)
	}
	b.WriteString("\nallow if {\n\thttp.method == \"GET\"\n\tinput.parsed_path[0] == \"people\"\n\t\"guest\" in claims.roles\n}\n")
	return b.String()
}

// roleData is the same policy with its rules as data.
func roleData(n int) map[string]string {
	var roles []string
	for i := range n - 1 {
		roles = append(roles, fmt.Sprintf(`{"method": "GET", "path": "service-%d", "role": "role-%d"}`, i, i%10))
	}
	roles = append(roles, `{"method": "GET", "path": "people", "role": "guest"}`)
	return map[string]string{
		"data.json": `{"rules": [` + strings.Join(roles, ",") + `]}`,
		"p.rego": `package envoy.authz

import input.attributes.request.http

default allow := false

claims := payload if {
	[_, encoded] := split(http.headers.authorization, " ")
	[_, payload, _] := io.jwt.decode(encoded)
}

allow if {
	some rule in data.rules
	rule.method == http.method
	rule.path == input.parsed_path[0]
	rule.role in claims.roles
}
`,
	}
}

// keyedData is a policy that looks a user up among n.
func keyedData(n int) map[string]string {
	var users []string
	for i := range n {
		users = append(users, fmt.Sprintf(`"user-%d": {"roles": ["role-%d", "guest"], "paths": ["people"]}`, i, i%10))
	}
	users = append(users, `"ann": {"roles": ["guest"], "paths": ["people"]}`)
	return map[string]string{
		"data.json": `{"users": {` + strings.Join(users, ",") + `}}`,
		"p.rego": `package envoy.authz

import input.attributes.request.http

default allow := false

claims := payload if {
	[_, encoded] := split(http.headers.authorization, " ")
	[_, payload, _] := io.jwt.decode(encoded)
}

allow if {
	http.method == "GET"
	user := data.users[claims.sub]
	"guest" in user.roles
	input.parsed_path[0] in user.paths
}
`,
	}
}

var benchmarked = map[string]authz.OPAPolicy{
	"boolean":     module("import input.attributes.request.http\ndefault allow := false\nallow if { http.method == \"GET\"; input.parsed_path[0] == \"people\" }"),
	"object":      {Path: "testdata/envoy"},
	"100 rules":   {Modules: map[string]string{"p.rego": roleRules(100)}},
	"500 rules":   {Modules: map[string]string{"p.rego": roleRules(500)}},
	"100 in data": {Modules: roleData(100)},
	"500 in data": {Modules: roleData(500)},
	"1000 by key": {Modules: keyedData(1000)},
}

// BenchmarkDecision is a whole decision, from the request to the answer, without a
// log.
func BenchmarkDecision(b *testing.B) {
	for name, p := range benchmarked {
		b.Run(name, func(b *testing.B) {
			a := good(b, opened(b, p, Options{}))
			r := asked("GET", "/people/1", guest, "")
			for _, name := range []string{"accept", "user-agent", "x-request-id", "traceparent", "x-forwarded-proto"} {
				r.Head.Fields = append(r.Head.Fields, l7.Field{Name: name, Value: "some value of " + name})
			}
			b.ReportAllocs()
			for b.Loop() {
				if got, err := a.Ask(b.Context(), r); err != nil || !got.Allowed {
					b.Fatal(got, err)
				}
			}
		})
	}
}

// BenchmarkPrepared is the evaluation alone, as it is prepared here and by partial
// evaluation.
func BenchmarkPrepared(b *testing.B) {
	for name, p := range benchmarked {
		s, err := read(&p)
		if err != nil {
			b.Fatal(err)
		}
		c, err := s.compile()
		if err != nil {
			b.Fatal(err)
		}
		input, err := document(provider(p), asked("GET", "/people/1", guest, ""))
		if err != nil {
			b.Fatal(err)
		}
		for way, options := range map[string][]rego.PrepareOption{"plain": nil, "partial": {rego.WithPartialEval()}, "shallow": {rego.WithPartialEval()}} {
			b.Run(name+"/"+way, func(b *testing.B) {
				began := time.Now()
				prepared, err := rego.New(rego.Query("data.envoy.authz.allow"), rego.Compiler(c.compiler), rego.Store(c.store), rego.ShallowInlining(way == "shallow")).PrepareForEval(b.Context(), options...)
				if err != nil {
					b.Skip(err)
				}
				took := time.Since(began)
				q := &Query{prepared}
				b.ReportAllocs()
				for b.Loop() {
					if _, err := q.eval(b.Context(), input); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(took.Seconds()*1000, "ms-to-prepare")
			})
		}
	}
}

// BenchmarkLog is a decision that is logged.
func BenchmarkLog(b *testing.B) {
	a := good(b, opened(b, benchmarked["boolean"], Options{Log: discard{}}))
	r := asked("GET", "/people/1", guest, "")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Ask(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
