package waypoint

// RaceOn is whether the race detector is on.
const RaceOn = raceOn
