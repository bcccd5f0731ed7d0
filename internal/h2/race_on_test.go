//go:build race

package h2

// Under the race detector sync.Pool drops what it is given now and then.
const pooling = false
