// Package ztunnel is the node tunnel of the mesh: it takes what the pods of its
// node send, carries it to other nodes over HBONE with the pod's own identity,
// and hands what arrives for them to the pods, if L4 policy lets it pass. It
// never looks inside.
//
// # The life of a connection, outbound
//
//	pods.go      a pod of this node is known; its ports are open, at its address
//	inpod.go       or inside its network namespace, of which somebody tells
//	namespace.go   the sockets there; answer.go: the pod's questions in DNS
//	redirected.go  a connection of the pod's, and where it was going
//	capture.go     or what it says by SOCKS5, where nothing may be redirected
//	decide.go    straight there, through a waypoint, or not at all
//	pick.go        to which of several, the last that failed last
//	gateway.go     to another network: a tunnel in a tunnel
//	resolve.go     to who is known by a name in DNS only
//	demand.go    what is not known yet and has to be is asked for, here and inbound
//	outbound.go  open the tunnel, or dial plainly; copy; report
//
// # Inbound
//
//	inbound.go   a CONNECT: is it for this pod, does policy let the caller in,
//	             does the application answer; only then 200; copy; report
//	required.go    has it been through the waypoint, if it has to
//	quota.go       are there not too many already
//	redirected.go  a connection without HBONE, of whose client no more is known
//	               than its address
//	proxyproto.go  tell a waypoint that does not speak HBONE who the client is
//	recheck.go   policy or workloads changed: judge what is open again
//	report.go    the facts, handed over at the end
//	drain.go     the end: let what is open finish, cut what does not
//	handover.go    somebody else takes the ports over meanwhile
//	self.go      our own pod, as any other's peers reach it
//
// Policy is the business of the destination's side alone. The caller's identity
// is what its certificate says; everything else a peer sends (baggage, forwarded)
// feeds the log and, of another network's workloads, the metrics at most.
package ztunnel
