package h2

import (
	"time"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// A Role says which end of the connection a Conn is.
type Role uint8

// The roles.
const (
	Client Role = iota
	Server
)

// A Handler is told what happens on a connection. Every call is made inside
// Receive, EOF, Output, Tick or Closed, and may call back into the Conn and its
// Streams, except Receive, EOF, Output, Tick and Closed.
type Handler interface {
	// Headers delivers a field section, pseudo-fields first. A server's first
	// on a stream opens it; a client's are informational (1xx) until the final
	// response; a later one, with end, holds trailers. f is valid for the call.
	Headers(s *Stream, f l7.Fields, end bool)

	// Data lends p for the call. Its bytes are uncredited until [Stream.Credit].
	// p may be empty when end is set.
	Data(s *Stream, p []byte, end bool)

	// Sent says that n bytes which [Stream.Write] had queued are on the output.
	Sent(s *Stream, n int)

	// Reset says that the stream is gone: the peer reset it or broke the rules
	// on it, will not serve it ([Refused]), or the connection closed. Nothing
	// follows on it.
	Reset(s *Stream, err error)

	// Changed says that Available may have changed: the peer's SETTINGS or
	// GOAWAY arrived, or a stream has ended.
	Changed()

	// Closed is the last call.
	Closed(err error)
}

// A Conn is one HTTP/2 connection. It is not safe for concurrent use: it
// belongs to one loop.
type Conn struct{ o Options }

// New returns a connection on which nothing has been received, with our preface
// in its output.
func New(role Role, o Options, h Handler, now time.Time) *Conn { return &Conn{o: o} }

func (c *Conn) Receive(p []byte) error                      { return nil }
func (c *Conn) EOF() error                                  { return nil }
func (c *Conn) Output() []byte                              { return nil }
func (c *Conn) Tick(now time.Time) error                    { return nil }
func (c *Conn) Closed(err error)                            {}
func (c *Conn) Open(f l7.Fields, end bool) (*Stream, error) { return nil, ErrNoStreams }
func (c *Conn) Available() int                              { return 0 }
func (c *Conn) Active() int                                 { return 0 }
func (c *Conn) Drain()                                      {}
func (c *Conn) Drained() bool                               { return false }
func (c *Conn) Draining() bool                              { return false }

// A Stream is one request and its response, or one tunnel.
type Stream struct {
	// Value is the caller's.
	Value any
	c     *Conn
	id    uint32
}

var _ flow.Stream = (*Stream)(nil)

func (s *Stream) ID() uint32                    { return s.id }
func (s *Stream) Conn() *Conn                   { return s.c }
func (s *Stream) Headers(f l7.Fields, end bool) {}
func (s *Stream) Write(p []byte) (queued int)   { return 0 }
func (s *Stream) CloseWrite()                   {}
func (s *Stream) Credit(n int)                  {}
func (s *Stream) Reset(err error)               {}
func (s *Stream) Queued() int                   { return 0 }
