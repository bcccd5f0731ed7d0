// Package dns answers the questions of pods in DNS: for names of the mesh from
// what is known of it, for all others with what the server says that was asked, or
// the node's own.
//
//	question ─► Resolver.Answer ─► records                     the mesh's: pure, from a snapshot
//	                  └──────────► forward ─► upstream servers   anybody else's: as it came
//
// A mesh has names that no other server knows: those of ServiceEntries, whose
// addresses the control plane made up. And it has names that are better
// answered here: as the client may see them, in its own network.
//
// A [Resolver] opens no socket and reads one snapshot; a [Server] has the
// sockets, and bounds what they cost. It asks upstream in the client's words and
// gives back the answer as it came: it validates nothing and caches nothing,
// which is the resolvers' business behind it. It answers the workloads of its
// node and nobody else.
package dns
