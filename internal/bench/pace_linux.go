package bench

import (
	"time"

	"golang.org/x/sys/unix"
)

// An alarm sleeps until a point in time, by the kernel's clock. Go's timers will
// not do: a program that is otherwise idle waits for them in epoll_wait, whose
// unit is a millisecond. And the kernel puts a sleep off by 50 µs unless told
// not to, so as to end several at once.
type alarm struct{ epoch int64 } // by the monotonic clock

// newAlarm is for a goroutine that is locked to its thread.
func newAlarm(epoch time.Time) alarm {
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // of this thread; else it is late
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // it cannot fail
	return alarm{now.Nano() - int64(time.Since(epoch))}
}

// sleepUntil returns at that time since epoch, or earlier: a signal ends it.
func (a alarm) sleepUntil(at time.Duration) {
	t := unix.NsecToTimespec(a.epoch + int64(at))
	_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &t, nil)
}
