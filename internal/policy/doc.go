// Package policy answers questions about policies without a proxy: it is what
// `waystone authz` does.
//
//	manifests → Load → Mesh → Explain, Test, Replay, Lint, Rego, Guard
//
// A [Mesh] is the manifests as the proxies would read them: the same decoder, the
// same index, and for each waypoint and for the node tunnel the same Store. What
// is answered is what those would do, by construction and not by imitation.
// Manifests that were never in a cluster lack what a cluster adds: addresses,
// pods, the label that takes a namespace into the mesh. That is assumed, and an
// answer says so where it matters.
//
// [Mesh.Explain] follows a request through the waypoint and the node tunnel, and
// says at each who is asked and why the answer is what it is. [Replay] does so for
// a log of a million requests, of which it knows only what the log has: there a
// verdict that depends on the rest is undetermined.
//
// The package reads files, and a running waypoint's dump of its configuration if
// told to. It asks no authorizer and fetches no key.
package policy
