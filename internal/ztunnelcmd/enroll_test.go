package ztunnelcmd

import (
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/program/programtest"
)

func TestParseFrom(t *testing.T) {
	for s, want := range map[string]from{
		"kubernetes":               {true, "/run/netns"},
		"kubernetes:/var/run/pods": {true, "/var/run/pods"},
		"netns:/run/netns":         {false, "/run/netns"},
	} {
		if got, err := parseFrom(s); err != nil || got != want {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
	}
	for s, want := range map[string]string{
		"":                 "neither kubernetes nor netns:DIR",
		"netns":            "neither",
		"docker:/run":      "neither",
		"netns:":           "no directory",
		"netns:run":        "no directory",
		"kubernetes:netns": "no directory",
	} {
		if _, err := parseFrom(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", s, err, want)
		}
	}
}

func TestEnrollSaysWhatItNeeds(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	_, args := programtest.Quiet(t)
	for _, r := range []struct {
		args []string
		want string
	}{
		{append(args, "--node", "n1", "--enroll", "pods"), `flag --enroll: "pods": is neither kubernetes nor netns:DIR`},
		{append(args, "--node", "n1", "--enroll", "netns:/run/netns", "--proxy-mode", "socks"), "flag --enroll: is for mode shared"},
		{append(args, "--node", "n1", "--enroll", "netns:/run/netns", "--proxy-mode", "dedicated"), "flag --enroll: is for mode shared"},
		{[]string{"unenroll"}, "flag --from: is required"},
		{[]string{"unenroll", "--from", "kubernetes"}, "flag --node: is required in Kubernetes"},
	} {
		if err := programtest.Execute(t, Command(), r.args...); err == nil || !strings.Contains(err.Error(), r.want) {
			t.Errorf("%v: %v, want %q", r.args[max(0, len(r.args)-4):], err, r.want)
		}
	}
}

func TestUnenrollOfNothing(t *testing.T) {
	var out strings.Builder
	c := Command()
	c.SetArgs([]string{"unenroll", "--from", "netns:" + t.TempDir()})
	c.SetOut(&out)
	if err := c.ExecuteContext(t.Context()); err != nil || out.String() != "rules removed from 0 network namespaces\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}
