package main

import (
	"bytes"
	"strings"
	"testing"
)

func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	c := root()
	var out bytes.Buffer
	c.SetArgs(args)
	c.SetOut(&out)
	c.SetErr(&out)
	err := c.ExecuteContext(t.Context())
	return out.String(), err
}

func TestHelpListsTheTools(t *testing.T) {
	out, err := run(t, "--help")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"demo", "version"} {
		if !strings.Contains(out, "\n  "+want+" ") {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
	for _, hidden := range []string{"\n  waypoint ", "\n  ztunnel ", "\n  bookinfo "} {
		if strings.Contains(out, hidden) {
			t.Errorf("%q is in\n%s", hidden, out)
		}
	}
}

func TestTheProxiesAreCommandsForTheDemo(t *testing.T) {
	for _, name := range []string{"waypoint", "ztunnel"} {
		if out, err := run(t, name); err == nil || !strings.Contains(out, "flag --identity: is required") {
			t.Errorf("%s: got %v, %s", name, err, out)
		}
	}
	if out, err := run(t, "bookinfo", "nobody", "--flag"); err == nil || !strings.Contains(out, "usage: bookinfo POD") {
		t.Errorf("bookinfo: got %v, %s", err, out)
	}
}

func TestVersion(t *testing.T) {
	if out, err := run(t, "version"); err != nil || !strings.HasPrefix(out, "waystone ") || !strings.Contains(out, "go1.") {
		t.Errorf("got %v, %s", err, out)
	}
}

func TestDemoTakesNoArguments(t *testing.T) {
	if _, err := run(t, "demo", "now"); err == nil {
		t.Error("the demo takes an argument")
	}
	if _, err := run(t, "demo", "--forever"); err == nil || !strings.Contains(err.Error(), "--forever") {
		t.Errorf("got %v", err)
	}
}
