package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// shell starts one.
func shell(t *testing.T, f *family, script string) *child {
	t.Helper()
	c, err := f.start("shell", filepath.Join(t.TempDir(), "said"), "/bin/sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// wrote returns a function that reports whether a child has written a line.
func wrote(c *child, line string) func(context.Context) error {
	return func(context.Context) error {
		if text, err := os.ReadFile(c.said); err != nil || !strings.Contains(string(text), line) {
			return errors.New("it has not written " + line)
		}
		return nil
	}
}

func TestAChildEndsByTheSignalOrInOrder(t *testing.T) {
	f := newFamily()
	for _, script := range []string{
		`trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done`,
		`trap 'exit 143' TERM; echo up; while :; do sleep 0.01; done`,
		`echo up; exec sleep 60`,
	} {
		c := shell(t, f, script)
		if err := c.await(t.Context(), wrote(c, "up")); err != nil {
			t.Fatal(err)
		}
		if err := f.end(syscall.SIGTERM, c); err != nil {
			t.Errorf("%s: %v", script, err)
		}
	}
	if err := f.close(); err != nil {
		t.Error(err)
	}
}

func TestAChildThatDiesIsNoticed(t *testing.T) {
	f := newFamily()
	never := func(context.Context) error { return errors.New("not yet") }
	c := shell(t, f, "echo out of luck; exit 3")
	err := c.await(t.Context(), never)
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "out of luck") {
		t.Errorf("got %v", err)
	}
	if err := f.close(); err == nil || !strings.Contains(err.Error(), "had died") {
		t.Errorf("got %v", err)
	}
}

func TestAChildThatEndsBadlyIsNoticed(t *testing.T) {
	f := newFamily()
	c := shell(t, f, `trap 'echo no more; exit 1' TERM; echo up; while :; do sleep 0.01; done`)
	if err := c.await(t.Context(), wrote(c, "up")); err != nil {
		t.Fatal(err)
	}
	if err := f.close(); err == nil || !strings.Contains(err.Error(), "no more") {
		t.Errorf("got %v", err)
	}
}

func TestWorkersAreFound(t *testing.T) {
	f := newFamily()
	c := shell(t, f, `trap 'exit 0' TERM; sleep 60 & sleep 60 & echo up; wait`)
	if err := c.await(t.Context(), wrote(c, "up")); err != nil {
		t.Fatal(err)
	}
	workers := c.workers()
	if len(workers) != 3 || workers[0] != c.pid() {
		t.Errorf("got %v of %d", workers, c.pid())
	}
	for _, pid := range workers[1:] {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	if err := f.close(); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNotInstalledIsNamed(t *testing.T) {
	if why := onPath("no-such-program", "its-package"); !strings.Contains(why, "apt-get install its-package") {
		t.Errorf("got %q", why)
	}
	if why := have(filepath.Join(t.TempDir(), "waypoint")); !strings.Contains(why, "make build") {
		t.Errorf("got %q", why)
	}
	if why := anyOf(func() string { return "" }, func() string { return "this" }, func() string { return "that" })(); why != "this" {
		t.Errorf("got %q", why)
	}
}

func TestMetricsAreAddedUp(t *testing.T) {
	got := map[string]float64{}
	err := addMetrics(got, `# HELP x_total What it is.
# TYPE x_total counter
x_total{a="1",b="}"} 2
x_total{a="2"} 3 1700000000
y 1.5e3
h_bucket{le="1"} 7
h_count 7
`)
	want := map[string]float64{"x_total": 5, "y": 1500, "h_count": 7}
	if err != nil || len(got) != len(want) {
		t.Errorf("got %v, %v", got, err)
	}
	for name, n := range want {
		if got[name] != n {
			t.Errorf("%s: got %v, want %v", name, got[name], n)
		}
	}
	if err := addMetrics(got, "<html>"); err == nil {
		t.Error("that was no metric")
	}
}

func TestAddressesAreOnesOwn(t *testing.T) {
	e := testEnv(t)
	seen := map[string]bool{}
	for range 1000 {
		a := e.address()
		if b := a.As4(); b[0] != 127 || b[1] < 100 || b[1] >= 240 || seen[a.String()] {
			t.Fatalf("got %v", a)
		}
		seen[a.String()] = true
	}
}
