package opa

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/authz"
)

const (
	openRego   = "package envoy.authz\nallow := true\n"
	shutRego   = "package envoy.authz\nallow := false\n"
	brokenRego = "package envoy.authz\nallow := {\n"
)

// await waits until that is said.
func (m messages) await(t *testing.T, want string) {
	t.Helper()
	for {
		select {
		case got := <-m:
			if strings.Contains(got, want) {
				return
			}
		case <-t.Context().Done():
			t.Fatalf("never said: %s", want)
		}
	}
}

func TestPolicyIsReadAgainWhenItChanges(t *testing.T) {
	for name, path := range map[string]string{"a file": "p/p.rego", "a directory": "p", "a directory above": "."} {
		dir := t.TempDir()
		place(t, dir, map[string]string{"p/p.rego": shutRego})
		said := make(messages, 100)
		a := good(t, opened(t, authz.OPAPolicy{Path: filepath.Join(dir, path)}, Options{Logger: said.logger()}))
		said.await(t, "policy loaded")
		if opens(t, a, "/") {
			t.Errorf("%s: it is open", name)
		}
		place(t, dir, map[string]string{"p/p.rego": openRego})
		said.await(t, "policy loaded")
		if !opens(t, a, "/") {
			t.Errorf("%s: it is shut still", name)
		}
		loaded := a.Status().Loaded
		place(t, dir, map[string]string{"p/p.rego": brokenRego})
		said.await(t, "the last good one stays in force")
		if !opens(t, a, "/") {
			t.Errorf("%s: what is broken has shut it", name)
		}
		var located *authz.ProviderError
		if s := a.Status(); s.Loaded != loaded || !errors.As(s.Err, &located) || !strings.Contains(located.Reason, "p.rego:3:") {
			t.Errorf("%s: the status is %+v", name, s)
		}
		place(t, dir, map[string]string{"p/p.rego": shutRego})
		said.await(t, "policy loaded")
		if s := a.Status(); s.Err != nil || opens(t, a, "/") {
			t.Errorf("%s: when it is mended the status is %+v", name, s)
		}
	}
}

// What a mounted ConfigMap's change is to the kernel: one link put in the place of
// another.
func TestPolicyIsReadAgainWhenALinkChanges(t *testing.T) {
	dir := t.TempDir()
	place(t, dir, map[string]string{"..1/p.rego": shutRego, "..2/p.rego": openRego + "# longer\n"})
	link := func(to, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(dir, "tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "tmp"), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("..1", "..data")
	link("..data/p.rego", "p.rego")
	said := make(messages, 100)
	a := good(t, opened(t, authz.OPAPolicy{Path: dir}, Options{Logger: said.logger()}))
	said.await(t, "policy loaded")
	link("..2", "..data")
	said.await(t, "policy loaded")
	if !opens(t, a, "/") {
		t.Error("it is shut still")
	}
}

func TestNeverGoodIsMended(t *testing.T) {
	dir := t.TempDir()
	place(t, dir, map[string]string{"p.rego": brokenRego})
	said := make(messages, 100)
	a := opened(t, authz.OPAPolicy{Path: dir}, Options{Logger: said.logger()})
	said.await(t, "there is no policy")
	if got, err := a.Ask(t.Context(), asked("GET", "/", "", "")); err == nil || got.Allowed || !strings.Contains(err.Error(), "p.rego:3:") {
		t.Errorf("the answer is %+v, %v", got, err)
	}
	place(t, dir, map[string]string{"p.rego": openRego})
	said.await(t, "policy loaded")
	if !opens(t, a, "/") {
		t.Error("it is shut still")
	}
}

// A provider that is replaced is another Authorizer. Its policy stays if the new
// one is broken.
func TestSuccessorKeepsTheLastGoodPolicy(t *testing.T) {
	first := good(t, opened(t, module("allow := true"), Options{}))
	second := opened(t, module("allow := {"), Options{After: first})
	first.Close()
	if s := second.Status(); s.Loaded != first.Status().Loaded || s.Err == nil || !opens(t, second, "/") {
		t.Errorf("the status is %+v", s)
	}
	third := opened(t, module("allow := ["), Options{After: second})
	if s := third.Status(); s.Loaded.IsZero() || s.Err == nil || !opens(t, third, "/") {
		t.Errorf("the status of the third is %+v", s)
	}
	fourth := good(t, opened(t, module("allow := false"), Options{After: third}))
	if opens(t, fourth, "/") {
		t.Error("the fourth has not its own policy")
	}
}

// A policy may take long to be read: meanwhile the one before is in force, and of
// none before there is no decision.
func TestSuccessorIsWaitedForNotTooLong(t *testing.T) {
	first := good(t, opened(t, module("allow := true"), Options{}))
	slow := &Authorizer{provider: provider(module("allow := false")), looked: make(chan struct{}), slots: make(chan struct{}, 1)}
	slow.after.Store(first)
	slow.provider.Timeout = 2 * time.Millisecond // of which it waits for half
	if !opens(t, slow, "/") {
		t.Error("what was before is not in force")
	}
	slow.after.Store(nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if got, err := slow.Ask(ctx, asked("GET", "/", "", "")); err == nil || got.Allowed || !strings.Contains(err.Error(), "is being read") {
		t.Errorf("the answer is %+v, %v", got, err)
	}
}

func TestOnlyThePolicysFilesConcern(t *testing.T) {
	a := opened(t, authz.OPAPolicy{Path: "testdata/envoy", DecisionLog: "testdata/envoy/log.json"}, Options{})
	for name, want := range map[string]bool{
		"testdata/envoy/policy.rego": true, "x/data.yaml": true, "x/..data": true, "x/.manifest": true, "x/sub": true, "x/b.tar.gz": true,
		"testdata/envoy/log.json": false, "x/access.log": false,
	} {
		if got := a.concerns(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
