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
//	greeting.go    and on, for the server name of TLS, if a policy asks for it
//	client.go      the two kinds of client: an HTTP/1.1 connection, an HTTP/2 stream
//	exchange.go    one request, step by step, in the order of Istio's filters:
//	admit.go         may it be judged at all, and as what
//	consult.go       CUSTOM: external authorizers are asked, and may edit it
//	authenticate.go  its tokens are verified: RequestAuthentication
//	authorize.go     AUDIT, DENY, ALLOW
//	originate.go   choose an endpoint and get a connection to it
//	upstream.go    connections to endpoints, kept and used again
//	forward.go     content up, response down, trailers, resets
//	refuse.go      the one place an error becomes a status
//	explain.go     why policy decided as it did, for those who want to know
//	opaque.go      tunnels that are not HTTP: authorize, copy, authorize again on change
//	report.go      the facts of an exchange, handed over once
//	worker.go      what one loop owns
//
// Every step runs on the loop that owns the client's HBONE connection and runs
// to completion. A step that must wait parks the exchange and hands out a
// ticket {exchange, generation}; resuming a stale ticket does nothing, so an
// abort in between is safe. The places that park are these: content being gathered
// for an external authorizer, its answer, and a connection to an endpoint.
//
// # Policy while a request waits
//
// A request is judged by the policies that were in force when it came, all of
// them: its destination is looked up once, before anybody is asked, and what is
// decided after the answer is decided by the same. Configuration that changes
// meanwhile is for the next request. An opaque tunnel is judged again, by what is
// in force then, for as long as it is open; but authorizers are asked once, when
// it opens, as a connection in Envoy asks them.
//
// Of content a request holds no more for an authorizer than half a window, which
// comes without credit: 128 KiB by default. An authorizer that may want more is shown
// a part of what is longer, or such a request is refused with 413, as it says.
//
// # What it will not do
//
// It does not look at the Host field to choose a destination: that is the
// address the client dialled, which the tunnel names, so a forged Host cannot
// borrow another service's policy. It takes no identity from a header. It
// retries a request only when nothing of it was sent, or when the peer says that
// nothing of it was processed.
package waypoint
