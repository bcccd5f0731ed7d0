// Package hbone is Istio's HBONE: TCP connections carried by CONNECT streams of
// HTTP/2 over mTLS.
//
//	Server: accept ─► handshake ─► Incoming ─► Accept ─► Tunnel
//	Pool:   Open ─► a connection that has room, or dial and handshake ─► Tunnel
//
// A connection belongs to the loop that adopted it, and so do its tunnels and
// everything that is called about them; only accepting, dialling and handshakes
// run elsewhere. A [Tunnel] is a [flow.Stream], so it can be copied to a socket
// or read by an HTTP codec like any other.
//
// Who the peer is comes from its certificate alone. What its fields say (see
// [Connect], [Baggage], [Forwarded]) is for telemetry and logs.
//
// The package decides nothing: which destination may be reached, by whom, and
// where it is, its users say.
package hbone
