package loop

// writable says that the wire takes bytes again.
func (s *Socket) writable() {
	if s.full {
		s.full = false
		s.mark()
	}
}

// flush does at the end of a batch what the batch has asked for.
func (s *Socket) flush() {
	switch {
	case s.phase == gone:
		return
	case s.broken:
		s.finish()
		return
	case s.phase == lingering:
	case s.write():
		s.wrote()
	case s.broken:
		s.finish()
		return
	}
	if s.phase != gone {
		s.w.watch(s.reads() || s.phase == lingering, s.full)
	}
}

// wrote goes on when everything has been written.
func (s *Socket) wrote() {
	if !s.shut && (s.ending || s.phase == closing) {
		if !s.closeNotify() {
			return
		}
		s.w.closeWrite()
		s.shut = true
	}
	switch {
	case !s.shut:
	case s.eof:
		s.finish()
	case s.phase == closing:
		s.phase = lingering
		s.release()
		s.loop.again(s) // for what has arrived since the last read
	}
}

// write writes what the driver has to say. It reports whether all of it has
// been written.
func (s *Socket) write() bool {
	if s.full || !s.drain() {
		return false
	}
	if s.shut || s.alert {
		return true
	}
	if s.layer != nil {
		return s.writeTLS()
	}
	keeper, _ := s.d.(keeper)
	for total := 0; total < maxFlush; {
		p := s.d.Output()
		if len(p) == 0 {
			return true
		}
		n := s.send(p)
		if s.broken {
			return false
		}
		total += n
		if keeper != nil {
			keeper.wrote(n)
		} else {
			s.out.Append(p[n:])
		}
		if n < len(p) {
			return false
		}
	}
	s.rest()
	return false
}

// rest has the socket flushed again in the next batch: it has had its turn in
// this one.
func (s *Socket) rest() {
	if !s.dirty {
		s.dirty = true
		s.loop.spent = append(s.loop.spent, s)
	}
}

// A keeper is a Driver that keeps what Output returned until it has left, and
// is told how much has. What it has not been told of, it returns again.
type keeper interface{ wrote(n int) }

// drain writes what is left of earlier writes.
func (s *Socket) drain() bool {
	for s.out.Len() > 0 {
		p := s.out.Front()
		n := s.send(p)
		s.out.Consume(n)
		if n < len(p) {
			return false
		}
	}
	return !s.broken
}

// send gives p to the wire and returns how much it took.
func (s *Socket) send(p []byte) int {
	if s.broken {
		return 0
	}
	n, err := s.w.write(p)
	if err != nil {
		s.writeFailed(err)
		return 0
	}
	s.full = n < len(p)
	return n
}

// writeFailed gives up, but not before the driver has seen what the peer sent
// before it did: an early answer, an alert.
func (s *Socket) writeFailed(err error) {
	s.readable()
	s.fail(s.opError("write", err))
}

// release lets the driver go.
func (s *Socket) release() {
	d := s.d
	s.d = nil
	s.out.Clear()
	s.held.Clear()
	if s.layer != nil {
		s.layer.Clear()
	}
	if d != nil {
		d.Closed(s.cause)
	}
}

// finish ends the socket, and tells the driver if it has not been told.
func (s *Socket) finish() {
	s.phase = gone
	if s.timer != nil {
		s.timer.Stop()
	}
	s.loop.forget(s)
	if s.known != nil {
		s.askTCPInfo()
	}
	switch {
	case s.w == nil: // never got so far
		s.drop()
	case s.reset:
		s.w.abort()
	default:
		s.w.close()
	}
	s.release()
}
