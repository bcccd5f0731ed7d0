package opa

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/util"

	"github.com/waystone-mesh/waystone/internal/extauthz"
	"github.com/waystone-mesh/waystone/internal/l7"
)

func TestDecisions(t *testing.T) {
	for _, x := range []struct{ rule, want string }{
		{`allow := true`, ""},
		{`allow := false`, ""},
		{`allow := {"allowed": true, "dynamic_metadata": 1}`, ""},
		{`allow := 1 if input.nothing`, "the decision is undefined"},
		{`allow := "yes"`, "is a string: neither a boolean nor an object"},
		{`allow := {"http_status": 200}`, "allowed is missing"},
		{`allow := {"allowed": "yes"}`, "allowed is a string and not a boolean"},
		{`allow := {"allowed": false, "http_status": 99}`, "http_status 99"},
		{`allow := {"allowed": false, "http_status": 403.5}`, "http_status 403.5"},
		{`allow := {"allowed": false, "http_status": "403"}`, "http_status is a string"},
		{`allow := {"allowed": false, "body": {}}`, "body is an object"},
		{`allow := {"allowed": true, "headers": {"x": 1}}`, `headers["x"] is neither a string nor an array of strings`},
		{`allow := {"allowed": true, "headers": [1]}`, `headers is a number and not an object`},
		{`allow := {"allowed": true, "response_headers_to_add": {"x": [1]}}`, `response_headers_to_add["x"]`},
		{`allow := {"allowed": true, "request_headers_to_remove": "x"}`, "request_headers_to_remove is a string and not an array"},
		{`allow := {"allowed": true, "query_parameters_to_remove": [null]}`, "query_parameters_to_remove has null among its strings"},
		{"allow := true\nallow := false", "evaluate: p.rego:3:1: "},
	} {
		a := good(t, opened(t, module(x.rule), Options{}))
		switch answer, err := a.Ask(t.Context(), asked("GET", "/", "", "")); {
		case x.want == "" && err != nil, x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)):
			t.Errorf("%s: %v, want %q", x.rule, err, x.want)
		case err != nil && answer.Allowed:
			t.Errorf("%s: an error, and allowed", x.rule)
		}
	}
}

func TestDecisionsEdit(t *testing.T) {
	const rego = `allow := {
	"allowed": true,
	"headers": [{"X-User": "ann", ":path": "/else", "Host": "else"}, {"x-user": ["bob", "eve"]}],
	"request_headers_to_remove": ["Authorization", "host"],
	"response_headers_to_add": {"Set-Cookie": ["a=1", "b=2"], "content-length": "9"},
	"query_parameters_to_set": {"B": ["1", "2"]},
	"query_parameters_to_remove": ["c"],
}`
	a := good(t, opened(t, module(rego), Options{}))
	got, err := a.Ask(t.Context(), asked("GET", "/", "", ""))
	if err != nil || !got.Allowed {
		t.Fatalf("the answer is %+v, %v", got, err)
	}
	fields := extauthz.Apply(l7.Fields{{Name: "x-user", Value: "root"}, {Name: "authorization", Value: "x"}}, got.Edits)
	if want := (l7.Fields{{Name: "x-user", Value: "ann"}, {Name: "x-user", Value: "bob"}, {Name: "x-user", Value: "eve"}}); !slices.Equal(fields, want) {
		t.Errorf("the request has %v, want %v", fields, want)
	}
	fields = extauthz.Apply(l7.Fields{{Name: "set-cookie", Value: "c=3"}}, got.Response)
	if want := (l7.Fields{{Name: "set-cookie", Value: "c=3"}, {Name: "set-cookie", Value: "a=1"}, {Name: "set-cookie", Value: "b=2"}}); !slices.Equal(fields, want) {
		t.Errorf("the response has %v, want %v", fields, want)
	}
	if want := []extauthz.Parameter{{Name: "B", Value: "1"}, {Name: "B", Value: "2"}}; !slices.Equal(got.SetQuery, want) || !slices.Equal(got.RemoveQuery, []string{"c"}) {
		t.Errorf("the query gets %v and loses %v", got.SetQuery, got.RemoveQuery)
	}

	a = good(t, opened(t, module(`allow := {"allowed": false, "http_status": 302, "headers": {"Location": "/login", "Set-Cookie": ["a=1", "b=2"]}}`), Options{}))
	got, err = a.Ask(t.Context(), asked("GET", "/", "", ""))
	want := l7.Fields{{Name: "location", Value: "/login"}, {Name: "set-cookie", Value: "a=1"}, {Name: "set-cookie", Value: "b=2"}}
	if err != nil || got.Allowed || got.Status != 302 || !slices.Equal(got.Fields, want) {
		t.Errorf("the answer is %+v, %v", got, err)
	}
}

// Whatever a policy answers with, what comes out can be written.
func FuzzDecision(f *testing.F) {
	f.Add(`true`)
	f.Add(`{"allowed": true, "headers": [{"a": ["b"]}], "request_headers_to_remove": ["x"], "query_parameters_to_set": {"a": "b"}}`)
	f.Add(`{"allowed": false, "http_status": 302, "body": "x", "headers": {"a": "b\r\nc: d"}}`)
	f.Fuzz(func(t *testing.T, text string) {
		var result any
		if util.UnmarshalJSON([]byte(text), &result) != nil {
			return // it is none
		}
		before, _ := json.Marshal(result)
		a, err := answerOf(result)
		if after, _ := json.Marshal(result); string(after) != string(before) {
			t.Errorf("%s became %s", before, after)
		}
		switch {
		case err != nil && a.Allowed:
			t.Error("an error, and allowed")
		case err == nil && !a.Allowed && (a.Status < 200 || a.Status > 599):
			t.Errorf("refused with status %d", a.Status)
		}
		for _, e := range slices.Concat(a.Edits, a.Response) {
			if !e.Valid() {
				t.Errorf("the edit %+v cannot be made", e)
			}
		}
		for _, field := range a.Fields {
			if !(extauthz.Edit{Name: field.Name, Value: field.Value}).Valid() {
				t.Errorf("the field %+v cannot be written", field)
			}
		}
	})
}
