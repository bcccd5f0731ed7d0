//go:build !race

package waypoint_test

const raceEnabled = false
