package hbone

import (
	"sync"
	"time"
)

// A deadline is one of a netConn's, guarded by its mu. Whoever waits is woken when
// it passes.
type deadline struct {
	passed bool
	timer  *time.Timer // nil: none, or it has fired
}

// set makes it t; the zero Time is never.
func (d *deadline) set(t time.Time, waiters *sync.Cond) {
	d.stop()
	d.passed = !t.IsZero() && !t.After(time.Now())
	if !t.IsZero() && !d.passed {
		var timer *time.Timer
		timer = time.AfterFunc(time.Until(t), func() {
			waiters.L.Lock()
			defer waiters.L.Unlock()
			if d.timer == timer { // and not one that was set meanwhile
				d.passed, d.timer = true, nil
				waiters.Broadcast()
			}
		})
		d.timer = timer
	}
	if d.passed {
		waiters.Broadcast()
	}
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
