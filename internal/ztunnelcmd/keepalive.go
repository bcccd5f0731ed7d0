package ztunnelcmd

import (
	"errors"
	"net"
	"time"

	"github.com/spf13/pflag"

	"github.com/waystone-mesh/waystone/internal/flags"
)

// keepAliveOptions are the flags about how connections in pods notice that the
// other end is gone without a word.
type keepAliveOptions struct {
	on             bool
	idle, interval time.Duration
	retries        uint32
	userTimeout    bool
}

func (o *keepAliveOptions) define(set *pflag.FlagSet) {
	flags.Define(set, &o.on, "keepalive", "bool", "true", flags.Bool, "probe idle TCP connections of pods that are served in their network namespaces", "KEEPALIVE_ENABLED")
	flags.Define(set, &o.idle, "keepalive-time", "DURATION", "180s", flags.Span, "how long a connection is idle until it is probed", "KEEPALIVE_TIME")
	flags.Define(set, &o.interval, "keepalive-interval", "DURATION", "180s", flags.Span, "between probes", "KEEPALIVE_INTERVAL")
	flags.Define(set, &o.retries, "keepalive-retries", "NUMBER", "9", flags.Size, "how many probes go unanswered until a connection ends", "KEEPALIVE_RETRIES")
	flags.Define(set, &o.userTimeout, "user-timeout", "bool", "false", flags.Bool, "end a connection also when what was sent has not been acknowledged for as long as all that", "USER_TIMEOUT_ENABLED")
}

// config returns them as sockets have them: 0 is no time that what was sent may go
// unacknowledged.
func (o *keepAliveOptions) config() (*net.KeepAliveConfig, time.Duration) {
	c := &net.KeepAliveConfig{Enable: o.on, Idle: o.idle, Interval: o.interval, Count: int(min(o.retries, 127))} // the kernel takes no more
	if !o.userTimeout {
		return c, 0
	}
	return c, o.idle + time.Duration(c.Count)*o.interval
}

// outside reports flags that were given where they are of no use.
func (o *keepAliveOptions) outside(given func(string) bool) error {
	for _, name := range []string{"keepalive", "keepalive-time", "keepalive-interval", "keepalive-retries", "user-timeout"} {
		if given(name) {
			return errors.New("flag --" + name + ": is for pods that are served in their network namespaces, not for --proxy-mode socks")
		}
	}
	return nil
}
