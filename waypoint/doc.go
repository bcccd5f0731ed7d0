// Package waypoint is the L7 proxy of the mesh: it ends the HBONE tunnels that
// node tunnels open to it, reads the requests inside, decides whether they may
// pass and where to, and begins a tunnel to the destination's node for them.
//
// # The life of a request
//
//	     client's node tunnel                     destination's node tunnel
//	             │ HBONE :15008                            ▲ HBONE :15008
//	 ┌───────────▼─────────────────────────────────────────┴───────────┐
//	 │ terminate ─► detect ─► exchange ─► originate ─► forward          │
//	 │                          │  │                      │             │
//	 │                       authz routing            telemetry         │
//	 └──────────────────────────────────────────────────────────────────┘
//
//	terminate.go   a CONNECT arrives: who is calling, which destination do they name
//	detect.go      peek at the first bytes: HTTP/2, HTTP/1.1, or opaque
//	client.go      the two kinds of client: an HTTP/1.1 connection, an HTTP/2 stream
//	exchange.go    one request: authorize, route, originate, forward
//	originate.go   choose an endpoint and get a connection to it
//	upstream.go    connections to endpoints, kept and used again
//	forward.go     content up, response down, trailers, resets
//	refuse.go      the one place an error becomes a status
//	opaque.go      tunnels that are not HTTP: authorize, copy, authorize again on change
//	report.go      the facts of an exchange, handed over once
//	worker.go      what one loop owns
//
// Every step runs on the loop that owns the client's HBONE connection and runs
// to completion. A step that must wait parks the exchange and hands out a
// ticket {exchange, generation}; resuming a stale ticket does nothing, so an
// abort in between is safe. The places that park are these: an external
// authorizer, content being gathered for it, and a connection to an endpoint.
//
// # What it will not do
//
// It does not look at the Host field to choose a destination: that is the
// address the client dialled, which the tunnel names, so a forged Host cannot
// borrow another service's policy. It takes no identity from a header. It
// retries a request only when nothing of it was sent, or when the peer says that
// nothing of it was processed.
package waypoint
