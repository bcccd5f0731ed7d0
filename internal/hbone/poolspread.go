package hbone

import (
	"errors"
	"time"
)

// A connection is busy while it has moved bulkBytes within this second or the one
// before: what begins on it then waits behind all that its socket has taken
// already. 4 MiB are what Linux lets a send buffer grow to, and 1 s of 34 Mbit/s.
// It is what the connection moves that counts and not what a stream has, which
// may have lain idle since.
const bulkBytes = 4 << 20

const (
	// spreadTimeout bounds the making of a connection that could be done without:
	// who waits for it might have been on a busy one long since.
	spreadTimeout = time.Second

	// spreadPause is how long none is tried again after one came to nothing.
	spreadPause = 30 * time.Second
)

// errCrowded says that as many wait for a connection as may.
var errCrowded = errors.New("too many tunnels wait for a connection there already")

// busy reports whether c is one that others should rather not share.
func (c *poolConn) busy() bool {
	return c.pool.o.Spread > 1 && max(c.moved, c.before) >= bulkBytes
}

// sinceTick begins a new second of what c moves.
func (c *poolConn) sinceTick() { c.before, c.moved = c.moved, 0 }

// spreads reports whether another connection may be made because those there are
// are busy.
func (d *dest) spreads() bool {
	o := &d.pool.o
	return len(d.conns) > 0 && len(d.conns)+len(d.dials) < o.Spread && !o.Loop.Now().Before(d.spreadAfter)
}

// openOn opens w's stream on a connection of those that are busy or of those that
// are not. Older ones that are not busy are filled first, so that the others can
// fall idle; of busy ones it is the one that moves least.
func (d *dest) openOn(busy bool, w *waiter) bool {
	var least *poolConn
	for _, c := range d.conns {
		switch {
		case c.busy() != busy:
		case !busy:
			if c.open(w) {
				return true
			}
		case c.room() > 0 && (least == nil || c.moved+c.before < least.moved+least.before):
			least = c
		}
	}
	return least != nil && least.open(w)
}

// crowded reports whether no more may wait than already do: for dials, and for
// peers that have not said how many tunnels they take.
func (d *dest) crowded() bool {
	n := len(d.dials)
	for _, c := range d.conns {
		if c.dial != nil {
			n++
		}
	}
	return n*d.limit >= d.pool.o.MaxWaiting
}
