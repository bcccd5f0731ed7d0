package ztunnelcmd

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/waystone-mesh/waystone/internal/flags"
	"github.com/waystone-mesh/waystone/ztunnel"
)

// connectionFlags returns what comes of flags and the environment.
func connectionFlags(t *testing.T, args []string, env map[string]string, inside bool) (ztunnel.Options, error) {
	t.Helper()
	var o connectionOptions
	set := pflag.NewFlagSet("ztunnel", pflag.ContinueOnError)
	o.define(set)
	if err := set.Parse(args); err != nil {
		return ztunnel.Options{}, err
	}
	lookup := func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	if err := flags.FromEnvironment(set, lookup); err != nil {
		return ztunnel.Options{}, err
	}
	var z ztunnel.Options
	o.apply(&z, inside)
	return z, nil
}

func TestPoolSpreadAndLongConnections(t *testing.T) {
	for _, row := range []struct {
		args   []string
		spread int
		long   time.Duration
	}{
		{nil, 4, time.Minute},
		{[]string{"--pool-spread=0", "--log-tcp-info-after=0s"}, 1, -1},
		{[]string{"--pool-spread=1", "--log-tcp-info-after=10s"}, 1, 10 * time.Second},
	} {
		z, err := connectionFlags(t, row.args, nil, true)
		if err != nil || z.PoolSpread != row.spread || z.LongConnection != row.long {
			t.Errorf("%v: %d connections, after %v; %v", row.args, z.PoolSpread, z.LongConnection, err)
		}
	}
}

func TestConnectionFlags(t *testing.T) {
	z, err := connectionFlags(t, nil, nil, true)
	if err != nil || z.RequireWaypoint || z.RegistryOnly || z.ConnectRetries != 2 || z.MaxPerIdentity != 0 || z.MaxConnections != 0 || z.NoOriginalSource || !z.LocalhostAppTunnel {
		t.Errorf("without flags: got %+v, %v", z, err)
	}
	z, err = connectionFlags(t, []string{"--outbound-policy=registry_only", "--require-waypoint", "--connect-retries=0", "--max-connections-per-identity=10", "--max-connections=1000"},
		map[string]string{"LOCALHOST_APP_TUNNEL": "false", "ENABLE_ORIG_SRC": "false"}, true)
	if err != nil || !z.RequireWaypoint || !z.RegistryOnly || z.ConnectRetries != -1 || z.MaxPerIdentity != 10 || z.MaxConnections != 1000 || !z.NoOriginalSource || z.LocalhostAppTunnel {
		t.Errorf("with flags: got %+v, %v", z, err)
	}
	if z, err := connectionFlags(t, nil, map[string]string{"LOCALHOST_APP_TUNNEL": "true"}, false); err != nil || z.LocalhostAppTunnel {
		t.Errorf("outside of the pod's network namespace: got %+v, %v; its loopback address is not the pod's", z, err)
	}
	for _, row := range []struct{ flag, want string }{
		{"--outbound-policy=NONE", "is neither ALLOW_ANY nor REGISTRY_ONLY"},
		{"--connect-retries=-1", "is not a number from 0"},
		{"--max-connections-per-identity=many", "is not a number from 0"},
		{"--max-connections=4294967296", "is not a number from 0"},
	} {
		if _, err := connectionFlags(t, []string{row.flag}, nil, true); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %s", row.flag, err, row.want)
		}
	}
}
