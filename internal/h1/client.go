package h1

import (
	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// A ClientHandler is told what a destination answers. Every call may come from
// within a call to the Client.
type ClientHandler interface {
	// Response is a response head: any number of informational ones (1xx, never
	// with end), then the final one, or a 101. r and its strings are valid for
	// the call. With end there is no content, and neither Content nor End
	// follows: the exchange is over if the request is complete.
	Response(r *l7.Response, end bool)

	// Content lends p for the call; its bytes stay uncredited until Credit.
	Content(p []byte)

	// End completes the response. trailers may be nil and are valid for the call.
	End(trailers l7.Fields)

	// Sent says that n bytes of content that Write left waiting have now left.
	Sent(n int)

	// Reset ends the exchange by force: the stream is gone, or the destination
	// broke the protocol (an *Error, ErrCut or ErrNoResponse) and the stream has
	// been reset.
	Reset(err error)

	// Closed is the last call: the connection is of no more use. It comes after
	// Reset when an exchange was open, and alone on an idle connection.
	Closed(err error)
}

// A Client is the asking end of one HTTP/1.1 connection. It is the Receiver of
// its stream; every call is made on the stream's loop.
type Client struct{}

var _ flow.Receiver = (*Client)(nil)

// NewClient returns a Client on s that reports to h, which may be nil until
// Attach. The caller makes it the Receiver of s.
func NewClient(s flow.Stream, h ClientHandler, l Limits) *Client { return &Client{} }

// Request opens an exchange. With end there is no content. Content is delimited
// by r.Length, or by chunks when it is negative; the framing fields among
// r.Fields are ignored. The target is r.Path, and the Host field r.Authority.
//
// An error (ErrState or ErrInvalid) means that nothing was written.
func (c *Client) Request(r *l7.Request, end bool) error { return nil }

// Write sends content, as [Server.Write] does. Once the response is complete
// content is dropped: the destination has lost interest.
func (c *Client) Write(p []byte) (queued int) { return 0 }

// End completes the request. Trailers are sent when it is chunked. After a 101
// it ends our direction.
func (c *Client) End(trailers l7.Fields) {}

// Credit says that n bytes of the response's content have been passed on.
func (c *Client) Credit(n int) {}

// Abort gives the connection up. The handler is told nothing more.
func (c *Client) Abort(err error) {}

// Close ends the connection in good order: an idle one that is not wanted.
func (c *Client) Close() {}

// Reusable reports whether another Request may follow: the last exchange is
// complete both ways, and nothing about it asks for the connection to be
// closed.
func (c *Client) Reusable() bool { return false }

// Attach makes h the handler: of an exchange to come, or, with a pool's own, of
// an idle connection, which can only be Closed.
func (c *Client) Attach(h ClientHandler) {}

// Detach leaves the Client without a handler and credits whatever content had
// not been: who detaches owes nothing more.
func (c *Client) Detach() {}

// Hold and Flush are as [Server.Hold] and [Server.Flush].
func (c *Client) Hold()  {}
func (c *Client) Flush() {}

// Data, EOF, Sent and Reset are the stream's.
func (c *Client) Data(p []byte)   {}
func (c *Client) EOF()            {}
func (c *Client) Sent(n int)      {}
func (c *Client) Reset(err error) {}
