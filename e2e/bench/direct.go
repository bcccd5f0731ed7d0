package main

import "context"

// noWaypoint is the generator straight to the destination: what of the latency is
// nobody else's.
func noWaypoint() system {
	return none("no waypoint", func(e *env) *running {
		return &running{
			connect: e.destination.HBONE.String(), transport: "hbone",
			authority: httpAuthority, peer: "default/" + serverAccount,
		}
	})
}

// noTunnel is that over plain TCP.
func noTunnel() system {
	return none("no tunnel", func(e *env) *running {
		return &running{connect: e.destination.Plain.String(), transport: "tcp", authority: plainAuthority}
	})
}

// none is a system without processes.
func none(name string, to func(*env) *running) system {
	nothing := func() string { return "" }
	return system{
		name: name, lacks: "everything", missing: nothing, version: nothing,
		start: func(_ context.Context, e *env) (*running, error) {
			r := to(e)
			r.stop = func() error { return nil }
			return r, nil
		},
	}
}
