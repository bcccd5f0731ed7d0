package program

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/telemetry"
)

// quiet are the flags of a program that listens nowhere but where it must.
func quiet(t *testing.T) (log string, args []string) {
	t.Helper()
	dir := t.TempDir()
	manifests := filepath.Join(dir, "config")
	if err := os.Mkdir(manifests, 0o755); err != nil {
		t.Fatal(err)
	}
	log = filepath.Join(dir, "log")
	return log, []string{
		"--config", manifests, "--identity", "self:" + filepath.Join(dir, "ca"), "--log-output", log, "--log-format", "json",
		"--admin", "off", "--metrics", "off", "--readiness", "off", "--loops", "1",
	}
}

// untilLogged ends a context when a log has a line.
func untilLogged(t *testing.T, path, line string) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	go func() {
		for ctx.Err() == nil {
			if text, _ := os.ReadFile(path); strings.Contains(string(text), line) {
				cancel()
			}
			<-time.After(time.Millisecond)
		}
	}()
	return ctx
}

func wantLines(t *testing.T, path string, lines ...string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rest := string(text)
	for _, l := range lines {
		_, after, ok := strings.Cut(rest, l)
		if !ok {
			t.Fatalf("no %q, in this order, in the log:\n%s", l, text)
		}
		rest = after
	}
}

func TestZtunnelRunsUntilItIsToldToEnd(t *testing.T) {
	log, args := quiet(t)
	c := Ztunnel()
	c.SetArgs(append(args, "--node", "n1"))
	if err := c.ExecuteContext(untilLogged(t, log, `"ready"`)); err != nil {
		t.Fatal(err)
	}
	wantLines(t, log, `"ready"`, `"draining"`, `"ended"`)
}

func TestWaypointRunsUntilItIsToldToEnd(t *testing.T) {
	log, args := quiet(t)
	c := Waypoint()
	c.SetArgs(append(args, "--gateway", "default/wp", "--service-account", "default/wp", "--hbone-address", "127.0.0.1:0", "--access-log", "off"))
	if err := c.ExecuteContext(untilLogged(t, log, `"ready"`)); err != nil {
		t.Fatal(err)
	}
	wantLines(t, log, `"ready"`, `"draining"`, `"ended"`)
}

func TestAProgramEndsWithItsFirstError(t *testing.T) {
	_, args := quiet(t)
	for _, row := range []struct {
		name, want string
		args       []string
	}{
		{"no configuration", "/nowhere", []string{"--config", "/nowhere"}},
		{"no such identity source", "flag --identity: identity:", []string{"--identity", "magic:beans"}},
		{"admin for all to see", "loopback", []string{"--admin", "0.0.0.0:0"}},
		{"levels that cannot be read", `flag --log-level: "loud"`, []string{"--log-level", "loud"}},
		{"a log that cannot be opened", "/nowhere/log", []string{"--log-output", "/nowhere/log"}},
		{"an address that is not ours", "flag --hbone-address", []string{"--hbone-address", "192.0.2.1:15008"}},
	} {
		c := Waypoint()
		c.SilenceErrors = true
		c.SetArgs(append(append(slices.Clone(args), "--gateway", "default/wp", "--service-account", "default/wp", "--hbone-address", "127.0.0.1:0", "--access-log", "off"), row.args...))
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err := c.ExecuteContext(ctx)
		cancel()
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %s", row.name, err, row.want)
		}
	}
}

func TestAWaypointWaitsForItsPodToKnowItself(t *testing.T) {
	_, args := quiet(t)
	var o waypointOptions
	o.identity, o.logOutput, o.logLevel, o.loops = args[3], os.DevNull, "info", 1
	o.gateway = name{"default", "wp"}
	o.trustDomain = "td"
	p := newProcess(t.Context(), &o.options)
	if err := errors.Join(p.report(telemetryOptions()), p.know(config.Options{})); err != nil {
		t.Fatal(err)
	}
	key := mesh.Key{Kind: "Gateway", Namespace: "default", Name: "wp"}
	found := make(chan identity.ID, 1)
	go func() {
		id, err := o.self(p, key)
		if err != nil {
			t.Error(err)
		}
		found <- id
	}()
	w := &mesh.Workload{UID: "w", Name: "wp-1", Namespace: "default", ServiceAccount: "wp-sa", TrustDomain: "td", IsWaypointFor: &key}
	if err := p.store.Apply([]config.Update{{Value: w}}); err != nil {
		t.Fatal(err)
	}
	want := identity.ID{TrustDomain: "td", Namespace: "default", ServiceAccount: "wp-sa"}
	if got := <-found; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if err := p.close(nil); err != nil {
		t.Error(err)
	}
}

func TestSeriesLiveAsLongAsAnyWorkloadOfTheirLabels(t *testing.T) {
	store := config.NewStore(config.Options{})
	l := &living{snapshot: store.Snapshot}
	pod := func(name, owner string) *mesh.Workload {
		return &mesh.Workload{UID: name, Name: name, Namespace: "default", OwnerName: owner, TrustDomain: "td"}
	}
	first := pod("web-1", "web")
	apply := func(u config.Update) {
		if err := store.Apply([]config.Update{u}); err != nil {
			t.Fatal(err)
		}
	}
	if l.has(first) {
		t.Error("there is no workload yet")
	}
	apply(config.Update{Value: pod("web-2", "web")})
	if !l.has(first) {
		t.Error("another pod of the same owner is there")
	}
	if l.has(pod("db-1", "db")) {
		t.Error("there is no such owner")
	}
	apply(config.Update{Key: mesh.Key{Kind: "Workload", Name: "web-2"}})
	if l.has(first) {
		t.Error("the last pod is gone")
	}
}

func telemetryOptions() telemetry.Options { return telemetry.Options{Program: telemetry.Waypoint} }
