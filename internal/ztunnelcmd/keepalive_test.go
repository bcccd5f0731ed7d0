package ztunnelcmd

import (
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/waystone-mesh/waystone/internal/flags"
	"github.com/waystone-mesh/waystone/internal/program/programtest"
)

func TestKeepAliveIsAsItIsGiven(t *testing.T) {
	for _, test := range []struct {
		args string
		env  map[string]string
		want net.KeepAliveConfig
		user time.Duration
	}{
		{"", nil, net.KeepAliveConfig{Enable: true, Idle: 180 * time.Second, Interval: 180 * time.Second, Count: 9}, 0},
		{"--keepalive-time 30s --user-timeout", map[string]string{"KEEPALIVE_TIME": "60s", "KEEPALIVE_INTERVAL": "5s", "KEEPALIVE_RETRIES": "3"},
			net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 5 * time.Second, Count: 3}, 45 * time.Second},
		{"--keepalive-retries 1000", map[string]string{"KEEPALIVE_ENABLED": "false"}, net.KeepAliveConfig{Idle: 180 * time.Second, Interval: 180 * time.Second, Count: 127}, 0},
	} {
		var o keepAliveOptions
		set := pflag.NewFlagSet("test", pflag.ContinueOnError)
		o.define(set)
		if err := set.Parse(strings.Fields(test.args)); err != nil {
			t.Fatal(err)
		}
		if err := flags.FromEnvironment(set, programtest.Lookup(test.env)); err != nil {
			t.Fatal(err)
		}
		if got, user := o.config(); *got != test.want || user != test.user {
			t.Errorf("%s: got %+v, %v, want %+v, %v", test.args, *got, user, test.want, test.user)
		}
	}
	var o keepAliveOptions
	given := func(names ...string) func(string) bool {
		return func(name string) bool { return slices.Contains(names, name) }
	}
	if err := o.outside(given("keepalive-time")); err == nil || !strings.Contains(err.Error(), "flag --keepalive-time: ") {
		t.Errorf("got %v", err)
	}
	if err := o.outside(given("dns")); err != nil {
		t.Error(err)
	}
}
