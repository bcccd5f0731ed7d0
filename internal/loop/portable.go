package loop

import (
	"io"
	"net"
	"time"

	"github.com/waystone-mesh/waystone/internal/bufs"
)

// A goWire serves a connection by two goroutines. One reads, posts what it has
// read to the loop, and waits until the loop has taken it; one writes what the
// loop hands it, a buffer at a time: that buffer stands in for the kernel's, so
// bytes in it count as having left.
type goWire struct {
	// Immutable.
	nc      net.Conn
	s       *Socket
	l       *Loop
	arrived func()
	left    func()

	back chan struct{} // the reader's buffer is free again
	ops  chan writeOp  // at most one buffer, one closeWrite and one close are in it
	gone chan struct{} // closed by close and abort

	// The reader's until it posts arrived; the writer's until it posts left.
	got    []byte
	gotErr error
	putErr error

	// Owned by the loop.
	in     []byte // got, or the rest of it
	inErr  error
	outErr error
	busy   bool // the writer has a buffer
	over   bool
}

// A writeOp is something for the writer to do: write buf and free it, or end our
// direction, or close and end.
type writeOp struct {
	buf   *bufs.Buffer
	close bool
}

// goBuffer is how much a goWire reads at a time. An idle socket holds that much,
// because a blocked read does.
const goBuffer = 16 << 10

func newGoWire(s *Socket) *goWire {
	w := &goWire{
		nc: s.nc, s: s, l: s.loop,
		back: make(chan struct{}, 1),
		ops:  make(chan writeOp, 4),
		gone: make(chan struct{}),
	}
	w.arrived, w.left = w.onArrived, w.onLeft
	_ = w.nc.SetDeadline(time.Time{}) // the handshake's
	w.l.wires.Add(2)
	go w.readAll()
	go w.writeAll()
	return w
}

// readAll is the goroutine that reads.
func (w *goWire) readAll() {
	defer w.l.wires.Done()
	buf := make([]byte, goBuffer)
	for {
		n, err := w.nc.Read(buf)
		w.got, w.gotErr = buf[:n], err
		w.l.Do(w.arrived)
		if err != nil {
			return
		}
		select {
		case <-w.back:
		case <-w.gone:
			return
		}
	}
}

// onArrived runs on the loop after a read.
func (w *goWire) onArrived() {
	if w.over {
		return
	}
	w.in, w.inErr = w.got, w.gotErr
	w.l.meter.reads++
	if len(w.in) == 0 && w.inErr == nil {
		w.back <- struct{}{}
		return
	}
	w.s.arrived(w.inErr, len(w.in))
}

func (w *goWire) read(p []byte) (int, error) {
	if len(w.in) == 0 {
		switch {
		case w.inErr == io.EOF && w.outErr != nil:
			return 0, w.outErr
		case w.inErr != nil:
			return 0, w.inErr
		}
		return 0, errWait
	}
	n := copy(p, w.in)
	w.in = w.in[n:]
	if len(w.in) == 0 && w.inErr == nil {
		w.back <- struct{}{}
	}
	return n, nil
}

func (w *goWire) more() bool { return len(w.in) > 0 || w.inErr != nil }

// writeAll is the goroutine that writes.
func (w *goWire) writeAll() {
	defer w.l.wires.Done()
	for op := range w.ops {
		switch {
		case op.buf != nil:
			_, w.putErr = w.nc.Write(op.buf.B)
			op.buf.Free()
			w.l.Do(w.left)
		case op.close:
			_ = w.nc.Close()
			return
		default:
			// A connection that cannot be half closed is left open: closing it
			// would cut the peer off. With TLS the peer has been told.
			if c, ok := w.nc.(interface{ CloseWrite() error }); ok {
				_ = c.CloseWrite()
			}
		}
	}
}

// onLeft runs on the loop after a write.
func (w *goWire) onLeft() {
	if w.over {
		return
	}
	switch w.outErr = w.putErr; {
	case w.outErr == nil:
		w.busy = false
		w.s.writable()
	case w.inErr == nil && w.s.reads():
		// The reader is about to be told as well, after what the peer sent before
		// it gave up. Until then the wire stays busy.
	default:
		w.s.writeFailed(w.outErr)
	}
}

func (w *goWire) write(p []byte) (int, error) {
	switch {
	case w.busy || len(p) == 0:
		return 0, nil
	case w.outErr != nil:
		return 0, w.outErr
	}
	b := bufs.Get(len(p))
	b.B = append(b.B, p[:min(len(p), cap(b.B))]...)
	n := len(b.B)
	w.busy = true
	w.l.meter.writes++
	w.ops <- writeOp{buf: b}
	return n, nil
}

// watch has nothing to do: the goroutines always tell.
func (w *goWire) watch(in, out bool) {}

func (w *goWire) closeWrite() { w.ops <- writeOp{} }

func (w *goWire) close() {
	w.over = true
	_ = w.nc.SetWriteDeadline(time.Now().Add(closeTimeout))
	w.ops <- writeOp{close: true}
	close(w.gone)
}

func (w *goWire) abort() {
	w.over = true
	if c, ok := w.nc.(interface{ SetLinger(int) error }); ok {
		_ = c.SetLinger(0)
	}
	_ = w.nc.Close()
	w.ops <- writeOp{close: true}
	close(w.gone)
}
