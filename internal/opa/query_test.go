package opa

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestQueriesAnswer(t *testing.T) {
	q, err := Prepare(t.Context(), "data.a.b", map[string]string{"a.rego": "package a\nb := input.x + 1"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := q.Eval(t.Context(), map[string]any{"x": 1}); err != nil || got.(interface{ String() string }).String() != "2" {
		t.Errorf("got %v, %v, want 2", got, err)
	}
	if got, err := q.Eval(t.Context(), map[string]any{}); !errors.Is(err, errUndefined) {
		t.Errorf("got %v, %v, want undefined", got, err)
	}
	if _, err := q.Eval(t.Context(), func() {}); err == nil {
		t.Error("what is no JSON is an input")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := q.Eval(ctx, nil); err == nil {
		t.Error("after the end there is an answer")
	}
	for question, rego := range map[string]string{"data.a.b": "package a\nb := c", "data.a.": "package a", "x := ": "package a"} {
		if _, err := Prepare(t.Context(), question, map[string]string{"a.rego": rego}); err == nil {
			t.Errorf("%s of %q is prepared", question, rego)
		}
	}
	if _, err := Prepare(t.Context(), "data.a.b", map[string]string{"a.rego": "package a\nb := c"}); err == nil || !strings.HasPrefix(err.Error(), "a.rego:2:6: ") {
		t.Errorf("got %v", err)
	}
}

// As in OPA, a part of a decision's path that is a number is one.
func TestReferences(t *testing.T) {
	for path, want := range map[string]string{"a/b": "data.a.b", "/a/b/": "data.a.b", "a/1/x-y": `data.a[1]["x-y"]`} {
		if got := reference(path).String(); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
}
