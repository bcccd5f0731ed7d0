package h2

const maxWindow = 1<<31 - 1

// An inflow accounts for what the peer may still send, on a stream or on the
// whole connection.
//
// Every byte of the window is in one of three places: the peer may send it
// (avail), it has been credited but not announced (owed), or it was received
// and not credited.
type inflow struct{ size, avail, owed int32 }

// newInflow returns a window of size bytes.
func newInflow(size uint32) inflow { return inflow{size: int32(size), avail: int32(size)} }

// receive takes n bytes out of the window and reports whether they were in it.
func (f *inflow) receive(n uint32) bool {
	if int64(n) > int64(f.avail) {
		return false
	}
	f.avail -= int32(n)
	return true
}

// credit gives n bytes back and returns the increment to announce now, 0 for
// none yet: it is announced by halves of window, which size is above when the
// peer may have opened the stream before it saw our SETTINGS. Credit for bytes
// that were never received is ignored: it would let the peer send more than the
// window.
func (f *inflow) credit(n int, window uint32) (announce uint32) {
	n = max(0, min(n, int(f.size-f.avail-f.owed)))
	f.owed += int32(n)
	if f.owed < max(1, int32(window/2)) {
		return 0
	}
	announce = uint32(f.owed)
	f.avail += f.owed
	f.owed = 0
	return announce
}

// An outflow is what we may still send. A stream's can be negative, after the
// peer has reduced its initial window (RFC 9113, section 6.9.2).
type outflow struct{ avail int64 }

// grow adds n, which may be negative, and reports whether the window is still
// one that RFC 9113 allows.
func (f *outflow) grow(n int64) bool {
	if f.avail+n > maxWindow {
		return false
	}
	f.avail += n
	return true
}
