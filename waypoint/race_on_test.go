//go:build race

package waypoint

const raceOn = true
