package main

import (
	"context"
	"time"
)

// A system is what is measured: the processes between the generator and the
// destination.
type system struct {
	name    string
	lacks   string                                              // what it leaves out that others do, in words; "" for nothing
	missing func() string                                       // why it cannot run here; "" when it can
	version func() string                                       // as its processes say it
	start   func(ctx context.Context, e *env) (*running, error) // returns when it is ready
}

// A running is a system that takes requests.
type running struct {
	connect   string // address and port for the generator to connect to
	transport string // hbone, tcp, socks5; for h2load: h2, over TLS, or http1, without
	authority string // the target of its CONNECT, or of its SOCKS5 request; see to
	peer      string // whose certificate the generator is to accept, as namespace/account

	pids   []int  // whose CPU and memory count; none when nothing stands between
	access string // the file of its access log; "" for none
	said   string // the file of what its processes have written otherwise

	took time.Duration // from the start of our waypoint's process until it was ready

	// counters reads what the processes themselves count, under the names that
	// they give it. nil: they tell nothing.
	counters func() (map[string]float64, error)

	// stop ends it. It is an error if a process had died before, or does not end.
	stop func() error
}

// The systems, by what they are compared with.

// waypoints take HBONE and make HBONE.
func waypoints(e *env) []system {
	return []system{waystoneWaypoint(e), envoyWaypoint(), haproxyPump(), noWaypoint()}
}

// tunnels take plain TCP, or SOCKS5, and make plain TCP, with mTLS between.
func tunnels(e *env) []system { return []system{waystoneTunnels(e), haproxyTunnels(), noTunnel()} }

// The target of a CONNECT to a waypoint: the addresses and ports of the services
// in the mesh that all of them are told of. Each port has its protocol declared,
// as Istio's users are advised.
const (
	httpAuthority = "10.96.0.10:80"
	grpcAuthority = "10.96.0.10:81"
	tcpAuthority  = "10.96.0.11:82"

	// plainAuthority is what node tunnels reach the plain destination by.
	plainAuthority = "10.96.0.20:83"
)

// to returns the authority for one of the generator's protocols: a waypoint has a
// port for each kind.
func (r *running) to(protocol string) string {
	if r.authority != httpAuthority {
		return r.authority
	}
	switch protocol {
	case "grpc", "grpc-stream":
		return grpcAuthority
	case "raw", "connect":
		return tcpAuthority
	}
	return httpAuthority
}
