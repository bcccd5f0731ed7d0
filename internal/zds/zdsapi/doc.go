// Package zdsapi is the messages by which a CNI's agent hands a node's pods to
// its tunnel, on the wire.
//
// They are made from zds.proto by `make generate`.
package zdsapi
