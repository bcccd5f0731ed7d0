package waypointcmd

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/flags"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/program"
	"github.com/waystone-mesh/waystone/internal/program/programtest"
	"github.com/waystone-mesh/waystone/telemetry"
)

func TestBadFlagsAreNamedWithValueAndReason(t *testing.T) {
	good := []string{"--gateway", "default/wp", "--config", "/nowhere", "--identity", "self:/nowhere"}
	for _, row := range []struct{ args, want string }{
		{"--max-streams many", `flag --max-streams: "many": is not a number from 1 to 2147483647`},
		{"--max-streams 0", `flag --max-streams: "0": is not a number from 1`},
		{"--stream-window 4294967295", `flag --stream-window: "4294967295": is not a number from 1`},
		{"--gateway wp", `flag --gateway: "wp": is not of the form namespace/name`},
		{"--service-account a/b/c", `flag --service-account: "a/b/c": is not of the form namespace/name`},
		{"--path-normalization SOME", `flag --path-normalization: "SOME": `},
		{"--jwks-ca /nowhere", `flag --jwks-ca: "/nowhere": open`},
		{"--compat 1.19", `flag --compat: "1.19": the only release`},
		{"--hbone-address 15008", `flag --hbone-address: "15008": is not an address to listen on`},
		{"--hbone-address web:15008", `flag --hbone-address: "web:15008": "web" is not an IP address`},
		{"--metrics :70000", `flag --metrics: ":70000": the port "70000" is not 0 to 65535`},
		{"--hbone-address off", `flag --hbone-address: "off": is not an address`},
		{"--log-format xml", `flag --log-format: "xml": is neither json nor plain`},
		{"--access-log-encoding json", `flag --access-log-encoding: "json": is neither JSON nor TEXT`},
		{"--loops 150%", `flag --loops: "150%": is not a share of the cores`},
		{"--tls-records kernel", `flag --tls-records: "kernel": is neither own nor crypto/tls`},
		{"--loops -1", `flag --loops: "-1": is neither a number`},
		{"--max-connection-age soon", `flag --max-connection-age: "soon": is not a duration`},
		{"--termination-deadline -5s", `flag --termination-deadline: "-5s": is not a duration`},
		{"--trace-sampling 101", `flag --trace-sampling: "101": is not a percentage`},
		{"--otlp-endpoint collector", `flag --otlp-endpoint: "collector": is not the address of a collector`},
		{"--otlp-endpoint ftp://collector", `flag --otlp-endpoint: "ftp://collector": is not the URL of a collector`},
		{"--nonsense", "unknown flag: --nonsense"},
		{"more", `unknown command "more"`},
	} {
		err := programtest.Execute(t, Command(), append(good, strings.Fields(row.args)...)...)
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %s", row.args, err, row.want)
		}
	}
}

func TestWaypointRunsUntilItIsToldToEnd(t *testing.T) {
	log, args := programtest.Quiet(t)
	c := Command()
	c.SetArgs(append(args, "--gateway", "default/wp", "--service-account", "default/wp", "--hbone-address", "127.0.0.1:0", "--access-log", "off"))
	if err := c.ExecuteContext(programtest.UntilLogged(t, log, `"ready"`)); err != nil {
		t.Fatal(err)
	}
	programtest.WantLines(t, log, `"ready"`, `"draining"`, `"ended"`)
}

func TestAProgramEndsWithItsFirstError(t *testing.T) {
	_, args := programtest.Quiet(t)
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
		c := Command()
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
	_, args := programtest.Quiet(t)
	var o options
	o.Identity, o.LogOutput, o.LogLevel, o.Loops = args[3], os.DevNull, "info", 1
	o.gateway = flags.ObjectName{Namespace: "default", Name: "wp"}
	o.TrustDomain = "td"
	p := program.New(t.Context(), &o.Options)
	if err := errors.Join(p.Report(telemetry.Options{Program: telemetry.Waypoint}), p.Know(config.Options{}, nil)); err != nil {
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
	if err := p.Store.Apply([]config.Update{{Value: w}}); err != nil {
		t.Fatal(err)
	}
	want := identity.ID{TrustDomain: "td", Namespace: "default", ServiceAccount: "wp-sa"}
	if got := <-found; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if err := p.Close(nil); err != nil {
		t.Error(err)
	}
}

func TestEveryVariableIsInTheHelp(t *testing.T) { programtest.WantHelp(t, Command()) }
