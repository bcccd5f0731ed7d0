//go:build race || invariants

package bench

const poisoned = true
