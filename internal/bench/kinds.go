package bench

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"syscall"

	"github.com/waystone-mesh/waystone/internal/h1"
	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/hbone"
)

// The kinds of errors that are not made of a status.
const (
	kindReset       = "reset"        // of the tunnel, or of its connection
	kindClosed      = "closed early" // an end in the middle of an answer, or before it
	kindCRC         = "crc"          // content that is not the pattern, or was not when it arrived there
	kindLength      = "length"       // less content than was asked for, or more
	kindMalformed   = "malformed"    // an answer that breaks its protocol
	kindTimeout     = "timeout"      // nothing came for [maxSilence]
	kindUnfinished  = "unfinished"   // nothing had come for a second when the measured part ended
	kindNotSent     = "not sent"     // the queue was full
	kindRefused     = "dial: refused"
	kindDialTimeout = "dial: timeout"
	kindDial        = "dial: other"
)

// A fault is an error that is nothing but its kind.
type fault string

func (f fault) Error() string { return string(f) }

// statusFault is an answer with another status than was expected.
func statusFault(status int) fault { return fault("status " + strconv.Itoa(status)) }

// grpcFault is one with another grpc-status than 0, or without one.
func grpcFault(status string) fault {
	if n, err := strconv.Atoi(status); err == nil && n >= 0 {
		return fault("grpc-status " + strconv.Itoa(n))
	}
	return kindMalformed
}

// kindOf returns the kind that err is counted as: one of few, so that a run of
// many errors can be read.
func kindOf(err error) string {
	var (
		f      fault
		status *hbone.StatusError
		dial   *hbone.DialError
		op     *net.OpError
		broken *h1.Error
		reset  *h2.StreamError
	)
	switch {
	case errors.As(err, &f):
		return string(f)
	case errors.As(err, &status):
		return "connect: " + strconv.Itoa(status.Status)
	case errors.Is(err, syscall.ECONNREFUSED):
		return kindRefused
	case errors.As(err, &dial), errors.As(err, &op) && op.Op == "dial":
		if t, ok := errors.AsType[interface {
			error
			Timeout() bool
		}](err); ok && t.Timeout() || errors.Is(err, context.DeadlineExceeded) {
			return kindDialTimeout
		}
		return kindDial
	case errors.As(err, &broken):
		return kindMalformed
	case errors.As(err, &reset):
		return kindReset
	case errors.Is(err, h1.ErrCut), errors.Is(err, h1.ErrNoResponse), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return kindClosed
	}
	return kindReset
}
