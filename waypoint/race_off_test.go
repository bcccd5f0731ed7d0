//go:build !race

package waypoint

const raceOn = false
