package bench

// A socketServed answers each message with one of the size that the request for
// the WebSocket asked for.
type socketServed struct {
	c    *http1Served
	in   frameReader
	size int64
	got  body

	control []byte // of the control frame that is being read
	ping    []byte // of the last ping
	pinged  bool   // it is to be answered (RFC 6455, section 5.5.3: only the last)

	over   bool    // nothing more is read
	said   bool    // by a Close, which is to be answered
	status [2]byte // ... with this
	ended  bool    // our direction is closed
	head   [32]byte
}

// statusProtocolError says that a frame breaks the rules (RFC 6455, section
// 7.4.1).
const statusProtocolError = 1002

func (s *socketServed) read(p []byte) {
	if !s.over {
		if err := s.in.read(p, s.c.p.scratch[:], s); err != nil && !s.over {
			s.c.p.failed(err)
			s.over, s.said, s.status = true, true, [2]byte{statusProtocolError >> 8, statusProtocolError & 0xff}
		}
	}
	s.c.codec.Credit(s.c.answers.credit(len(p)))
	s.pump()
}

// frame and frameEnd are frames.
func (s *socketServed) frame(op byte, p []byte) {
	switch {
	case s.over:
	case op&opClose != 0:
		s.control = append(s.control, p...)
	default:
		s.got.add(p)
	}
}

func (s *socketServed) frameEnd(op byte, last bool) {
	switch {
	case s.over:
		return
	case op == opClose:
		s.over, s.said, s.status = true, true, [2]byte{1000 >> 8, 1000 & 0xff}
		if len(s.control) >= len(s.status) {
			s.status = [2]byte(s.control)
		}
	case op == opPing:
		s.ping, s.pinged = append(s.ping[:0], s.control...), true
	case op == opPong:
	case last:
		s.c.p.took(s.got)
		s.got = body{}
		s.c.answers.ask(s.size)
		return
	default:
		return
	}
	s.control = s.control[:0]
}

// pump writes what there is room for of what is owed: control frames only
// between others.
func (s *socketServed) pump() {
	a, codec := &s.c.answers, s.c.codec
	if s.ended {
		return
	}
	for {
		if s.pinged && a.written(codec) {
			s.pinged = false
			a.out.waiting += codec.Write(append(appendFrameHead(s.head[:0], opPong, int64(len(s.ping)), nil), s.ping...))
		}
		size, ok := a.next(codec)
		if !ok {
			break
		}
		a.out.waiting += codec.Write(appendFrameHead(s.head[:0], opBinary, size, nil))
	}
	if a.held > 0 {
		codec.Credit(a.credit(0))
	}
	if s.over && a.none() && !s.pinged {
		s.ended = true
		if s.said {
			codec.Write(append(appendFrameHead(s.head[:0], opClose, int64(len(s.status)), nil), s.status[:]...))
		}
		codec.End(nil)
	}
}

// eof notes that the client has ended its direction.
func (s *socketServed) eof() {
	if !s.over && s.in.within() {
		s.c.p.failed(fault(kindClosed))
	}
	s.over = true
	s.pump()
}

// busy reports whether anything is under way.
func (s *socketServed) busy() bool { return s.in.within() || !s.c.answers.none() }
