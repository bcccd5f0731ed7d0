package flow

import "github.com/waystone-mesh/waystone/internal/bufs"

// An Early is the Receiver of a stream while there is nobody to take what
// arrives: somebody is being dialled, say. It keeps the bytes and credits none,
// so that the stream's window bounds them. Gone is called when the stream is
// reset meanwhile.
type Early struct {
	Gone func(error)

	held bufs.Queue
	eof  bool
}

// HandTo gives r everything that has arrived, in order. The caller makes r the
// stream's Receiver.
func (e *Early) HandTo(r Receiver) {
	for e.held.Len() > 0 {
		p := e.held.Front()
		r.Data(p)
		e.held.Consume(min(len(p), e.held.Len())) // r may have had us Drop
	}
	if e.eof {
		r.EOF()
	}
}

// Drop forgets what has arrived: nobody will take it.
func (e *Early) Drop() { e.held.Clear() }

// Data and what follows are Receiver.
func (e *Early) Data(p []byte) { e.held.Append(p) }

// EOF notes that nothing more will come.
func (e *Early) EOF() { e.eof = true }

// Sent is for those who have written.
func (e *Early) Sent(int) {}

// Reset calls Gone.
func (e *Early) Reset(err error) { e.Gone(err) }
