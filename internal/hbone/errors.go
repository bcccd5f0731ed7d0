package hbone

import (
	"errors"
	"net/netip"
	"strconv"

	"github.com/waystone-mesh/waystone/internal/h2"
)

// ErrClosed is the cause when a pool has been shut down.
var ErrClosed = errors.New("hbone: closed")

// A StatusError is the answer of a peer that will not open a tunnel.
type StatusError struct{ Status int }

func (e *StatusError) Error() string {
	return "hbone: the peer answered the CONNECT with " + strconv.Itoa(e.Status)
}

// A DialError says that there is no connection to open a tunnel on, or that the
// one there was ended before the peer answered. No byte of the tunnel has been
// sent, so it may be tried again, there or elsewhere.
type DialError struct {
	Addr netip.AddrPort
	Err  error
}

func (e *DialError) Error() string {
	s := "hbone: open " + e.Addr.String() + ": " + e.Err.Error()
	if t, ok := e.Err.(interface{ Timeout() bool }); ok && t.Timeout() {
		s += ": is a NetworkPolicy blocking the port?"
	}
	return s
}

func (e *DialError) Unwrap() error { return e.Err }

// A HandshakeError within a [DialError] says that TCP's connection was there and
// TLS came to nothing: the peer's certificate is not one we accept, or, if NoneOfOurs
// is set, we had none to show.
type HandshakeError struct {
	NoneOfOurs bool
	Err        error
}

func (e *HandshakeError) Error() string { return e.Err.Error() }
func (e *HandshakeError) Unwrap() error { return e.Err }

// ErrEnded within a [DialError] says that a connection came to its end under a
// tunnel that had not been answered, before the peer spoke HTTP/2.
var ErrEnded = errors.New("the peer closed the connection before it was of use: does it accept our certificate?")

// NothingSent reports whether err, from [Pool.Open] or a tunnel's Reset, says
// that the peer has done nothing, so that trying again cannot do it twice.
func NothingSent(err error) bool {
	var d *DialError
	return errors.As(err, &d) || h2.Refused(err)
}

// Canceled reports whether err, from a tunnel's Reset, is the other proxy's way
// to say that its end is closed: RST_STREAM with NO_ERROR or CANCEL.
func Canceled(err error) bool {
	var s *h2.StreamError
	return errors.As(err, &s) && s.Remote && (s.Code == h2.CodeNoError || s.Code == h2.CodeCancel)
}

// outward returns what to tell the peer of a tunnel that we give up because of
// err. Without a reason that is CANCEL. What went wrong behind us is
// CONNECT_ERROR (RFC 9113, section 8.5); another peer's codes stay its own, for
// REFUSED_STREAM would claim that nothing was sent.
func outward(err error) error {
	if err == nil {
		return nil
	}
	var s *h2.StreamError
	if errors.As(err, &s) && (s.Code == h2.CodeNoError || s.Code == h2.CodeCancel) {
		return s
	}
	return &h2.StreamError{Code: h2.CodeConnect, Cause: err}
}
