package loop

import "time"

// A poller is how a loop waits.
type poller interface {
	// wait returns how many events are ready. When idle and nothing is, it waits
	// for one, for wake, or until a time since the loop's epoch (never, when
	// that is negative). It calls park before it waits.
	wait(l *Loop, idle bool, until time.Duration) int

	// dispatch handles the first n events, and has l breathe after each.
	dispatch(l *Loop, n int)

	// wake ends a wait. It may be called from anywhere, even after close.
	wake()

	// open returns the wire for a connection, which it takes over, or nil when
	// it cannot serve one of this kind.
	open(s *Socket) wire

	// close is called when the loop has ended.
	close()
}

// A wire moves the bytes of one socket and never waits. It tells its Socket when
// to try again: readable, writable.
type wire interface {
	// read returns errWait when nothing is there, io.EOF at the end.
	read(p []byte) (int, error)

	// write returns how much the wire took. Less than len(p) means that it is
	// full, and that the Socket is told when it is not.
	write(p []byte) (int, error)

	// watch says which of readable and writable are of interest.
	watch(in, out bool)

	// more reports whether reading would give something that no event will tell.
	more() bool

	// closeWrite ends our direction after what was written.
	closeWrite()

	// close closes after what was written has left; abort, at once and with a
	// reset where there is such a thing. Nothing is called after either.
	close()
	abort()
}

// A chanPoller waits on a channel: nothing but wake and timers ends its wait,
// and the goroutines of its sockets post what happens.
type chanPoller struct {
	woken chan struct{}
	timer *time.Timer
}

func newChanPoller() *chanPoller {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &chanPoller{woken: make(chan struct{}, 1), timer: t}
}

func (p *chanPoller) wait(l *Loop, idle bool, until time.Duration) int {
	if !idle || !l.park() {
		return 0
	}
	l.meter.idle()
	if until < 0 {
		<-p.woken
		return 0
	}
	p.timer.Reset(until - time.Since(l.epoch))
	select {
	case <-p.woken:
		p.timer.Stop()
	case <-p.timer.C:
	}
	return 0
}

func (p *chanPoller) dispatch(*Loop, int) {}

func (p *chanPoller) wake() {
	select {
	case p.woken <- struct{}{}:
	default:
	}
}

func (p *chanPoller) open(*Socket) wire { return nil }

func (p *chanPoller) close() { p.timer.Stop() }
