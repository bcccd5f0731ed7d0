package h2

import (
	"testing"
	"time"
)

func TestInflow(t *testing.T) {
	type step struct {
		receive  uint32
		refused  bool
		credit   int
		announce uint32
	}
	for _, tt := range []struct {
		name         string
		size, window uint32
		steps        []step
	}{
		{"announced by halves", 100, 100, []step{
			{receive: 60}, {credit: 49}, {credit: 1, announce: 50}, {credit: 10}, {receive: 90}, {receive: 1, refused: true},
		}},
		{"owed credit is not yet the peer's", 100, 100, []step{
			{receive: 100}, {credit: 49}, {receive: 1, refused: true}, {credit: 1, announce: 50}, {receive: 50},
		}},
		{"no more credit than was received", 100, 100, []step{
			{receive: 60}, {credit: 1000, announce: 60}, {credit: 1000}, {credit: -5}, {receive: 100},
		}},
		{"batches follow the smaller window", 65535, 10, []step{
			{receive: 65535}, {credit: 4}, {credit: 1, announce: 5},
		}},
		{"a window of one", 1, 1, []step{
			{receive: 1}, {receive: 1, refused: true}, {credit: 1, announce: 1}, {receive: 1},
		}},
		{"the largest", maxWindow, maxWindow, []step{
			{receive: maxWindow}, {credit: maxWindow, announce: maxWindow}, {receive: maxWindow},
		}},
		{"nothing", 10, 10, []step{{receive: 0}, {credit: 0}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newInflow(tt.size)
			for i, s := range tt.steps {
				if s.receive > 0 {
					if got := f.receive(s.receive); got == s.refused {
						t.Errorf("step %d: receive: got %t", i, got)
					}
					continue
				}
				if got := f.credit(s.credit, tt.window); got != s.announce {
					t.Errorf("step %d: got %d to announce, want %d", i, got, s.announce)
				}
			}
		})
	}
}

func TestOutflow(t *testing.T) {
	for _, tt := range []struct {
		avail, grow int64
		want        bool
	}{
		{0, 1, true},
		{0, maxWindow, true},
		{1, maxWindow, false},
		{maxWindow, 0, true},
		{maxWindow, -1, true},
		{10, -20, true},
		{-10, maxWindow, true},
		{-10, maxWindow + 11, false},
	} {
		f := outflow{tt.avail}
		want := tt.avail
		if tt.want {
			want += tt.grow
		}
		if got := f.grow(tt.grow); got != tt.want || f.avail != want {
			t.Errorf("%d grown by %d: got %t and %d, want %t and %d", tt.avail, tt.grow, got, f.avail, tt.want, want)
		}
	}
}

func TestRecentForgetsTheOldest(t *testing.T) {
	var r recent
	for id := uint32(1); id <= 10; id++ {
		r.add(id, 4)
	}
	for id := uint32(0); id <= 11; id++ {
		if got, want := r.has(id), id >= 7 && id <= 10; got != want {
			t.Errorf("%d: got %t", id, got)
		}
	}
}

func TestOptionsAreMadeLegal(t *testing.T) {
	o := Options{}.withDefaults()
	if o.StreamWindow != 256<<10 || o.ConnWindow != 1<<20 || o.MaxFrame != 1<<20 || o.MaxStreams != 200 || o.MaxHeaderList != 64<<10 ||
		o.Keepalive != 10*time.Second || o.KeepaliveTimeout != 20*time.Second || o.SlowReader != 5*time.Minute || o.MaxResets != 500 {
		t.Errorf("defaults: got %+v", o)
	}
	o = Options{StreamWindow: 1<<32 - 1, ConnWindow: 1, MaxFrame: 1<<32 - 1, MaxStreams: 1000, MaxHeaderList: 1}.withDefaults()
	if o.StreamWindow != maxWindow || o.ConnWindow != initialWindow || o.MaxFrame != maxFrame || o.MaxHeaderList != 1<<10 || o.MaxResets != 2000 {
		t.Errorf("limits: got %+v", o)
	}
}
