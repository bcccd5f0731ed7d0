//go:build !linux

package bench

import "time"

// An alarm sleeps until a point in time, as exactly as Go's timers do.
type alarm struct{ epoch time.Time }

func newAlarm(epoch time.Time) alarm { return alarm{epoch} }

func (a alarm) sleepUntil(at time.Duration) { time.Sleep(at - time.Since(a.epoch)) }
