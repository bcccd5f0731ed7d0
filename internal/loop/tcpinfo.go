package loop

import "time"

// A TCPInfo is what the kernel knows about a TCP connection's way to the peer.
type TCPInfo struct {
	RTT    time.Duration // smoothed
	MinRTT time.Duration // the least of late; 0: not known

	// Retransmitted is how many segments have been sent anew since the connection
	// began. Lost is how many of these the peer has not said to have had already
	// (RFC 2883), and how many more are taken for lost right now.
	Retransmitted, Lost uint32
}

// A knownTCP is when the kernel was last asked, and what it said.
type knownTCP struct {
	info TCPInfo
	at   time.Time
}

// sameInfo is for how long what the kernel said is taken to be so: 1 s. Hundreds
// of tunnels ask about one connection at the same time.
const sameInfo = time.Second

// TCPInfo asks the kernel, unless it did within the last second: that is a system
// call. After the socket's end it is how things were then, if that was asked for.
// It reports false where nothing is known: in memory, and elsewhere than on Linux.
func (s *Socket) TCPInfo() (TCPInfo, bool) {
	if s.loop == nil {
		return TCPInfo{}, false
	}
	if s.known == nil || s.known.at.IsZero() || s.loop.Now().Sub(s.known.at) >= sameInfo {
		s.askTCPInfo()
	}
	if s.known == nil || s.known.at.IsZero() {
		return TCPInfo{}, false
	}
	return s.known.info, true
}

// KeepTCPInfo has TCPInfo say after the socket's end how things were then. The
// kernel is not asked before.
func (s *Socket) KeepTCPInfo() {
	if s.known == nil && s.phase != gone {
		s.known = new(knownTCP)
	}
}

func (s *Socket) askTCPInfo() {
	w, ok := s.w.(interface{ tcpInfo() (TCPInfo, bool) })
	if !ok {
		return
	}
	if i, ok := w.tcpInfo(); ok {
		s.known = &knownTCP{i, s.loop.Now()}
	}
}

// TCPInfo and KeepTCPInfo are those of the socket.
func (t *TCP) TCPInfo() (TCPInfo, bool) { return t.s.TCPInfo() }

// KeepTCPInfo is explained at TCPInfo.
func (t *TCP) KeepTCPInfo() { t.s.KeepTCPInfo() }
