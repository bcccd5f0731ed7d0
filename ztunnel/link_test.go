package ztunnel

import (
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/telemetry"
)

// A way is a stream whose connection is known.
type way struct {
	flow.Stream
	info  loop.TCPInfo
	known bool
	asked int
}

func (w *way) TCPInfo() (loop.TCPInfo, bool) {
	w.asked++
	return w.info, w.known
}

func TestLinkCountsWhileTheConnectionLasts(t *testing.T) {
	w := &way{known: true, info: loop.TCPInfo{RTT: time.Millisecond, Retransmitted: 7, Lost: 5}}
	var l link
	l.begin(nil) // it is being dialled
	l.begin(w)
	l.begin(w)
	if w.asked != 1 {
		t.Errorf("the kernel was asked %d times, want once", w.asked)
	}
	w.info = loop.TCPInfo{RTT: 2 * time.Millisecond, MinRTT: time.Microsecond, Retransmitted: 10, Lost: 6}
	want := telemetry.Link{RTT: 2 * time.Millisecond, MinRTT: time.Microsecond, Retransmits: 3, Lost: 1}
	if got := l.end(w, time.Minute, longConnection); got == nil || *got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	w.info.Lost = 2 // what was in doubt has arrived
	if got := l.end(w, time.Minute, longConnection); got == nil || got.Lost != 0 {
		t.Errorf("got %+v, want none lost", got)
	}
}

func TestLinkIsToldOfLongConnectionsOnly(t *testing.T) {
	for name, c := range map[string]struct {
		lasted, long   time.Duration
		known, flushed bool
		told           bool
	}{
		"long":                {time.Minute, longConnection, true, true, true},
		"short":               {time.Minute - 1, longConnection, true, true, false},
		"never":               {time.Hour, -1, true, true, false},
		"every":               {time.Second, 1, true, true, true},
		"before it was asked": {time.Second, 1, true, false, false},
		"in memory":           {time.Hour, longConnection, false, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := &way{known: c.known}
			var l link
			if c.flushed {
				l.begin(w)
			}
			if got := l.end(w, c.lasted, c.long); (got != nil) != c.told {
				t.Errorf("got %+v", got)
			}
		})
	}
}
