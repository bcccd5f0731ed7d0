package waypoint

import "testing"

// RaceOn is whether the race detector is on.
const RaceOn = raceOn

// Hello returns what a client of TLS says that means a server.
func Hello(t testing.TB, server string) []byte { return hello(t, server, 0) }
