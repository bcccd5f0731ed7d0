//go:build race

package ztunnel_test

// race says that the race detector is on.
const race = true
