//go:build !race && !invariants

package bufs

const checked = false
