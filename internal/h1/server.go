package h1

import (
	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// A ServerHandler is told what clients send. There is one exchange at a time:
// Request opens it, and it is over when both the request and the response are
// complete and every byte of content that Write left waiting has been reported
// by Sent. Only then is the next one announced.
//
// Every call may come from within a call to the Server.
type ServerHandler interface {
	// Request opens an exchange. r and its strings are valid for the call; its
	// fields may be edited. With end there is no content, and neither Content
	// nor End follows.
	Request(r *l7.Request, end bool)

	// Content lends p for the call; its bytes stay uncredited until Credit.
	// After a 101 the bytes are the other protocol's.
	Content(p []byte)

	// End completes the request: nothing more is read of it. trailers may be nil
	// and are valid for the call. After a 101 it says that the client has ended
	// its direction.
	End(trailers l7.Fields)

	// Sent says that n bytes of content that Write left waiting have now left.
	Sent(n int)

	// EOF says that the client has ended its direction while the response is not
	// complete. A client that went away looks like this, and so does one that
	// half-closes and waits: Abort the exchange, or go on with it.
	EOF()

	// Reset ends the exchange by force: the stream is gone, or the request's
	// framing is broken (then err is an *Error, and the codec has answered it
	// itself when no response had begun). Nothing follows for this exchange.
	Reset(err error)

	// Malformed says that a request was refused before it opened an exchange:
	// the codec has answered status and is closing the connection.
	Malformed(status int, err error)

	// Closed is the last call: both directions have ended, or the stream is
	// gone. err is nil when it ended in good order.
	Closed(err error)
}

// A Server is the serving end of one HTTP/1.1 connection. It is the Receiver
// of its stream; every call is made on the stream's loop.
type Server struct{}

var _ flow.Receiver = (*Server)(nil)

// NewServer returns a Server on s that reports to h. The caller makes it the
// Receiver of s, and gives Data the bytes that it has read already.
func NewServer(s flow.Stream, h ServerHandler, l Limits) *Server { return &Server{} }

// Respond sends a response head. Informational ones (1xx) may come before the
// final one; a 101 with Upgrade set switches both directions to raw bytes. With
// end there is no content.
//
// Content is delimited by r.Length: as many bytes when it is not negative;
// otherwise by chunks, or for an HTTP/1.0 client by closing. The framing fields
// among r.Fields are ignored; of a response to HEAD, and of a 304, the
// content-length field is passed on.
//
// An error (ErrState or ErrInvalid) means that nothing was written.
func (c *Server) Respond(r *l7.Response, end bool) error { return nil }

// Write sends content, which is lent for the call, and returns how many of its
// bytes are waiting: Sent reports those. Content that the response may not have
// (HEAD, 204, 304) is dropped. More than the declared length resets the stream,
// and the handler is told by Reset with ErrLength.
func (c *Server) Write(p []byte) (queued int) { return 0 }

// End completes the response. Trailers are sent when it is chunked. After a 101
// it ends our direction. Less content than declared is a reset, as in Write.
func (c *Server) End(trailers l7.Fields) {}

// Credit says that n bytes of the request's content have been passed on.
func (c *Server) Credit(n int) {}

// Abort gives the connection up. The handler is told nothing more.
func (c *Server) Abort(err error) {}

// CloseAfter closes the connection after the current exchange, telling the
// client by Connection: close if the response has not begun; an idle one at
// once.
func (c *Server) CloseAfter() {}

// Hold makes the next response head, and what small content follows it, wait
// until there is enough, the response ends, or Flush: so that they leave in one
// Write. Who calls Hold calls Flush at the end of the batch.
func (c *Server) Hold() {}

// Flush writes what Hold has kept back.
func (c *Server) Flush() {}

// Idle reports whether no exchange is open and no byte of another has come.
func (c *Server) Idle() bool { return true }

// Data, EOF, Sent and Reset are the stream's.
func (c *Server) Data(p []byte)   {}
func (c *Server) EOF()            {}
func (c *Server) Sent(n int)      {}
func (c *Server) Reset(err error) {}
