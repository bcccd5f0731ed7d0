package opa

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/waystone-mesh/waystone/authz"
)

// A decisionLog writes what OPA's decision logs have: a line of JSON for each.
type decisionLog struct {
	out            io.Writer
	provider, path string
}

// write writes a line about e. What grants access, and content, is left out of
// it before anybody sees it; then what the policy's system.log.mask names is. A
// log never keeps a request.
func (l *decisionLog) write(e *event) {
	entry := map[string]any{
		"labels":      map[string]any{"provider": l.provider},
		"decision_id": newID(), "path": l.path,
		"timestamp": e.request.At.UTC().Format(time.RFC3339Nano),
		"metrics":   map[string]any{"timer_server_handler_ns": time.Since(e.began).Nanoseconds()},
	}
	if head := e.request.Head; head != nil && head.Fields.Has("x-request-id") {
		entry["request_id"] = head.Fields.Get("x-request-id")
	}
	if r := e.policy.revision; r != "" {
		entry["bundles"] = map[string]any{"policy": map[string]any{"revision": r}}
	}
	if e.err != nil {
		entry["error"] = map[string]any{"message": e.err.Error()}
	}
	if e.result != nil {
		entry["result"] = hide(copied(e.result))
	}
	if e.input != nil {
		if input, err := ast.JSON(e.input); err == nil {
			entry["input"] = hideContent(hide(input))
		}
	}
	if e.policy.mask != nil {
		if err := mask(e.policy.mask, entry); err != nil { // what it was to hide is not known
			delete(entry, "input")
			delete(entry, "result")
			entry["error"] = map[string]any{"message": "system.log.mask: " + err.Error()}
		}
	}
	if line, err := json.Marshal(entry); err == nil {
		_, _ = l.out.Write(append(line, '\n'))
	}
}

// newID returns a random UUID (RFC 9562, section 5.4).
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// secret stands for a value that is not for people.
const secret = "(redacted)"

// hide returns a document without the values whose names say that they are
// secret, without JWTs, and without queries, in which either may be. It changes
// the document.
func hide(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			if authz.IsSecret(name) {
				v[name] = secret
				continue
			}
			v[name] = hide(value)
			if s, ok := value.(string); ok && (name == "path" || name == ":path" || name == "referer") {
				if path, _, query := strings.Cut(s, "?"); query {
					v[name] = path + "?" + secret
				}
			}
		}
		return v
	case []any:
		for i := range v {
			v[i] = hide(v[i])
		}
		return v
	case string:
		if i := strings.Index(v, "eyJ"); i >= 0 && strings.Count(v[i:], ".") >= 2 {
			return secret
		}
	}
	return v
}

// hideContent returns an input without the content of the request and the values
// of its query.
func hideContent(v any) any {
	input, _ := v.(map[string]any)
	http := at(input, "attributes", "request", "http")
	for _, name := range []string{"body", "rawBody"} {
		if http[name] != nil {
			http[name] = secret
		}
	}
	if input["parsed_body"] != nil {
		input["parsed_body"] = secret
	}
	query := at(input, "parsed_query")
	for name := range query {
		query[name] = secret
	}
	return v
}

func at(m map[string]any, path ...string) map[string]any {
	for _, name := range path {
		m, _ = m[name].(map[string]any)
	}
	return m
}

// copied returns a document that shares nothing with v.
func copied(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for name, value := range v {
			m[name] = copied(value)
		}
		return m
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = copied(v[i])
		}
		return list
	}
	return v
}

// maskTime is how long a policy may take to say what is to be masked: as long as
// a decision may.
const maskTime = time.Second

// mask has the policy say what in an entry is not to be logged.
func mask(q *Query, entry map[string]any) error {
	ctx, stop := context.WithTimeout(context.Background(), maskTime)
	defer stop()
	rules, err := q.Eval(ctx, entry)
	if err != nil {
		return err
	}
	return applyMask(rules, entry)
}
