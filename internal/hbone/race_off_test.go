//go:build !race

package hbone

const raceOn = false
