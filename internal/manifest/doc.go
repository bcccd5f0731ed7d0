// Package manifest turns Kubernetes objects into resources of ours.
//
//	YAML or JSON → Decode → Object → Index → config.Update
//
// Decode reads documents with the official Go types, strictly: a field that
// the type does not have is an error, because a misspelt field of a policy
// would otherwise be a policy that does something else. It also validates,
// since a file has no admission webhook in front of it.
//
// An Index joins the objects: a Pod with its Namespace, its Node, the Services
// that select it, the policies that select it and the waypoint that serves it.
// One changed object is looked at again together with those that it touches,
// and what comes out is only what differs.
//
// The package does no I/O. Where objects come from (files, an API server) is
// the caller's business.
package manifest
