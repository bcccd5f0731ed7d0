// Package caapi is what is said between istiod's CA and its clients, on the wire.
//
// The messages are made from the .proto file here by `make generate`.
package caapi
