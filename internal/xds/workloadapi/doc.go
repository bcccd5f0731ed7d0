// Package workloadapi is Istio's workload API as messages: what istiod sends a
// node tunnel, on the wire. Package xds turns them into package mesh's and
// authz's.
//
// The messages are made from the .proto files here by `make generate`.
package workloadapi
