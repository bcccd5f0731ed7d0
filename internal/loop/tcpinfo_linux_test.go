package loop

import (
	"io"
	"testing"
	"unsafe"
)

// TestTCPInfoLayout holds the structure to the offsets in linux/tcp.h.
func TestTCPInfoLayout(t *testing.T) {
	var i tcpInfo
	for _, f := range []struct {
		name      string
		got, want uintptr
	}{
		{"tcpi_lost", unsafe.Offsetof(i.lost), 32},
		{"tcpi_rtt", unsafe.Offsetof(i.rtt), 68},
		{"tcpi_total_retrans", unsafe.Offsetof(i.totalRetrans), 100},
		{"tcpi_min_rtt", unsafe.Offsetof(i.minRTT), 148},
		{"tcpi_dsack_dups", unsafe.Offsetof(i.dsackDups), 216},
	} {
		if f.got != f.want {
			t.Errorf("%s is at %d, want %d", f.name, f.got, f.want)
		}
	}
}

// TestTCPInfo asks the kernel, and once more for what was last known.
func TestTCPInfo(t *testing.T) {
	newEnv(t, Options{}, nil, func(e *env) {
		g := &leg{}
		peer := e.leg(0, g)
		e.on(func() { g.t.Write([]byte("there")) })
		if _, err := io.ReadFull(peer, make([]byte, 5)); err != nil {
			e.Fatal(err)
		}
		var before, after TCPInfo
		var known, still bool
		e.on(func() { before, known = g.t.TCPInfo() })
		if !known || before.RTT <= 0 || before.RTT.Seconds() > 1 || before.MinRTT > before.RTT {
			e.Errorf("got %+v, %t", before, known)
		}
		if err := peer.SetLinger(0); err != nil {
			e.Fatal(err)
		}
		peer.Close()
		<-g.gone
		e.on(func() { after, still = g.t.TCPInfo() })
		if !still || after.RTT <= 0 {
			e.Errorf("after the end: %+v, %t", after, still)
		}
	})
}

// TestTCPInfoIsKeptIfWanted: of a connection that is over, though nobody has asked
// while it was not.
func TestTCPInfoIsKeptIfWanted(t *testing.T) {
	newEnv(t, Options{}, nil, func(e *env) {
		g := &leg{}
		peer := e.leg(0, g)
		e.on(func() { g.t.KeepTCPInfo() })
		if err := peer.SetLinger(0); err != nil {
			e.Fatal(err)
		}
		peer.Close()
		<-g.gone
		var known bool
		e.on(func() { _, known = g.t.TCPInfo() })
		if !known {
			e.Error("it was not kept")
		}
	})
}

// TestTCPInfoIsAskedForOnceASecond: by however many tunnels of a connection.
func TestTCPInfoIsAskedForOnceASecond(t *testing.T) {
	newEnv(t, Options{}, nil, func(e *env) {
		g := &leg{}
		e.leg(0, g)
		e.on(func() {
			g.t.TCPInfo()
			first := g.t.s.known
			if g.t.TCPInfo(); g.t.s.known != first {
				e.Error("asked twice")
			}
			first.at = first.at.Add(-sameInfo)
			if g.t.TCPInfo(); g.t.s.known == first {
				e.Error("what was known a second ago is told")
			}
		})
	})
}

// TestTCPInfoIsNotKeptUnasked: a socket that nobody has asked about costs nothing
// at its end, and says nothing after.
func TestTCPInfoIsNotKeptUnasked(t *testing.T) {
	each(t, func(e *env) {
		g := &leg{}
		peer := e.leg(0, g)
		var known bool
		if e.mem != nil {
			e.on(func() { _, known = g.t.TCPInfo() })
			if known {
				e.Error("the kernel knows of a connection in memory")
			}
		}
		if err := peer.SetLinger(0); err != nil {
			e.Fatal(err)
		}
		peer.Close()
		<-g.gone
		e.on(func() { _, known = g.t.TCPInfo() })
		if known {
			e.Error("it was kept")
		}
	})
}
