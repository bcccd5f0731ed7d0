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

// TCPInfo asks the kernel, which is a system call. After the socket's end it is
// how things were then, if it was asked for before. It reports false where nothing
// is known: in memory, and elsewhere than on Linux.
func (s *Socket) TCPInfo() (TCPInfo, bool) {
	s.askTCPInfo(true)
	if s.info == nil {
		return TCPInfo{}, false
	}
	return *s.info, true
}

// askTCPInfo brings s.info up to date, if there is one or first is set.
func (s *Socket) askTCPInfo(first bool) {
	w, ok := s.w.(interface{ tcpInfo() (TCPInfo, bool) })
	if !ok || s.info == nil && !first {
		return
	}
	if i, ok := w.tcpInfo(); ok {
		s.info = &i
	}
}

// TCPInfo is that of the socket.
func (t *TCP) TCPInfo() (TCPInfo, bool) { return t.s.TCPInfo() }
