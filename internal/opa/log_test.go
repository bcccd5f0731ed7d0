package opa

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// lines is a decision log in memory.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// only returns the one line that was written, and its text.
func (l *lines) only(t *testing.T) (entry map[string]any, text string) {
	t.Helper()
	text = l.buf.String()
	if strings.Count(text, "\n") != 1 {
		t.Fatalf("want a line, got %q", text)
	}
	if err := json.Unmarshal([]byte(text), &entry); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return entry, text
}

func TestDecisionsAreLoggedWithoutSecrets(t *testing.T) {
	var log lines
	a := good(t, opened(t, authz.OPAPolicy{Path: "testdata/envoy"}, Options{Log: &log}))
	r := asked("POST", "/people?access_token=hunter2&pin=4711", guest, `{"owner":"ann","pin":"1234"}`)
	r.Head.Fields = append(r.Head.Fields,
		l7.Field{Name: "x-request-id", Value: "id-1"}, l7.Field{Name: "cookie", Value: "sid=5678"}, l7.Field{Name: "x-forwarded-jwt", Value: token(guest)},
		l7.Field{Name: "referer", Value: "http://x/?pin=4711"})
	if _, err := a.Ask(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	entry, text := log.only(t)
	if at(entry, "result")["allowed"] != true || entry["path"] != "envoy/authz/allow" || at(entry, "input", "attributes", "request", "http")["method"] != "POST" ||
		entry["request_id"] != "id-1" || len(entry["decision_id"].(string)) != 36 || at(entry, "labels")["provider"] != "x" || entry["timestamp"] != "1970-01-01T00:16:40Z" {
		t.Errorf("the entry is %s", text)
	}
	for _, secret := range []string{"1234", token(guest), "hunter2", "4711", "5678"} {
		if strings.Contains(text, secret) {
			t.Errorf("%s is in %s", secret, text)
		}
	}
}

func TestWhatIsNotDecidedIsLogged(t *testing.T) {
	for _, x := range []struct{ rule, path, want string }{
		{`allow if input.nothing`, "/", "undefined"}, {"allow := true\nallow := false", "/", "p.rego:2"}, {"allow := true", "/%zz", "not well encoded"},
	} {
		var log lines
		a := good(t, opened(t, module(x.rule), Options{Log: &log}))
		_, _ = a.Ask(t.Context(), asked("GET", x.path, "", ""))
		entry, text := log.only(t)
		if message, _ := at(entry, "error")["message"].(string); !strings.Contains(message, x.want) {
			t.Errorf("%s: the entry is %s", x.rule, text)
		}
	}
}

func TestConnectionsAreDecidedAndLogged(t *testing.T) {
	var log lines
	a := good(t, opened(t, module(`allow := input.source_principal == "spiffe://cluster.local/ns/default/sa/sleep"`), Options{Log: &log}))
	r := asked("", "", "", "")
	r.Head, r.Content = nil, nil
	if got, err := a.Ask(t.Context(), r); err != nil || !got.Allowed {
		t.Errorf("the answer is %+v, %v", got, err)
	}
	if entry, text := log.only(t); at(entry, "input", "attributes")["source"] == nil || at(entry, "input", "attributes")["request"] != nil {
		t.Errorf("the entry is %s", text)
	}
}

func TestPolicyMasksItsLog(t *testing.T) {
	const rego = `allow := {"allowed": true, "headers": {"x-user": "ann", "x-list": ["a", "b"]}}`
	for _, x := range []struct {
		name, mask string
		without    []string
		with       []string
	}{
		{"a path", `mask contains "/input/attributes/request/http/headers/x-pin"`, []string{"1234"}, []string{`"erased":["/input/attributes/request/http/headers/x-pin"]`, `"x-user":"ann"`}},
		{"an operation", `mask contains {"op": "upsert", "path": "/result/headers/x-user", "value": "*"}`, []string{"ann"}, []string{`"x-user":"*"`, `"masked":["/result/headers/x-user"]`}},
		{"a condition", `mask contains "/input" if input.result.allowed`, []string{`"input"`}, []string{`"erased":["/input"]`}},
		{"of a list", `mask contains "/result/headers/x-list/0"`, []string{`"a"`}, []string{`["b"]`}},
		{"in a list", `mask contains {"op": "upsert", "path": "/result/headers/x-list/1", "value": 7}`, nil, []string{`["a",7]`}},
		{"what is not there", `mask contains "/input/nothing/at/all"`, []string{"erased"}, []string{"x-pin"}},
		{"new", `mask contains {"op": "upsert", "path": "/result/note/why", "value": "x"}`, nil, []string{`"note":{"why":"x"}`}},
		{"nonsense", `mask contains "/labels"`, []string{"1234", "ann"}, []string{"system.log.mask: path"}},
		{"an operation that is none", `mask contains {"op": "move", "path": "/result"}`, []string{"1234", "ann"}, []string{"neither remove nor upsert"}},
		{"no set", `mask := 1`, []string{"1234", "ann"}, []string{"a number and not a set"}},
		{"a failure", "mask := 1\nmask := 2", []string{"1234", "ann"}, []string{"mask.rego:2"}},
	} {
		var log lines
		p := module(rego)
		p.Modules["mask.rego"] = "package system.log\n" + x.mask
		a := good(t, opened(t, p, Options{Log: &log}))
		r := asked("GET", "/", "", "")
		r.Head.Fields = l7.Fields{{Name: "x-pin", Value: "1234"}}
		if got, err := a.Ask(t.Context(), r); err != nil || got.Edits[len(got.Edits)-1].Value != "ann" {
			t.Errorf("%s: the answer is %+v, %v", x.name, got, err)
		}
		_, text := log.only(t)
		for _, s := range x.without {
			if strings.Contains(text, s) {
				t.Errorf("%s: %s is in %s", x.name, s, text)
			}
		}
		for _, s := range x.with {
			if !strings.Contains(text, s) {
				t.Errorf("%s: %s is not in %s", x.name, s, text)
			}
		}
	}
}

func FuzzMask(f *testing.F) {
	f.Add(`["/input/a/b"]`)
	f.Add(`[{"op": "upsert", "path": "/result/list/0", "value": {}}, "/result/list/0"]`)
	f.Fuzz(func(t *testing.T, text string) {
		var rules any
		if json.Unmarshal([]byte(text), &rules) != nil {
			return // it is none
		}
		entry := map[string]any{"input": map[string]any{"a": map[string]any{"b": "c"}}, "result": map[string]any{"list": []any{"x", []any{"y"}}}, "labels": "kept"}
		_ = applyMask(rules, entry)
		if entry["labels"] != "kept" {
			t.Errorf("labels are %v", entry["labels"])
		}
	})
}
