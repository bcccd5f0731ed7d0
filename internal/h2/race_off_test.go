//go:build !race

package h2

const pooling = true
