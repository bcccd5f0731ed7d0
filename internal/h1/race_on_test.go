//go:build race || invariants

package h1

const poisoned = true
