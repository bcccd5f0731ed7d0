package h2

import (
	"errors"
	"strconv"
)

// An ErrCode is a reason for closing a stream or a connection (RFC 9113,
// section 7).
type ErrCode uint32

// The codes.
const (
	CodeNoError ErrCode = iota
	CodeProtocol
	CodeInternal
	CodeFlowControl
	CodeSettingsTimeout
	CodeStreamClosed
	CodeFrameSize
	CodeRefusedStream
	CodeCancel
	CodeCompression
	CodeConnect // the connection behind a CONNECT was reset
	CodeEnhanceYourCalm
	CodeInadequateSecurity
	CodeHTTP11Required
)

var codeNames = [...]string{
	CodeNoError:            "NO_ERROR",
	CodeProtocol:           "PROTOCOL_ERROR",
	CodeInternal:           "INTERNAL_ERROR",
	CodeFlowControl:        "FLOW_CONTROL_ERROR",
	CodeSettingsTimeout:    "SETTINGS_TIMEOUT",
	CodeStreamClosed:       "STREAM_CLOSED",
	CodeFrameSize:          "FRAME_SIZE_ERROR",
	CodeRefusedStream:      "REFUSED_STREAM",
	CodeCancel:             "CANCEL",
	CodeCompression:        "COMPRESSION_ERROR",
	CodeConnect:            "CONNECT_ERROR",
	CodeEnhanceYourCalm:    "ENHANCE_YOUR_CALM",
	CodeInadequateSecurity: "INADEQUATE_SECURITY",
	CodeHTTP11Required:     "HTTP_1_1_REQUIRED",
}

// String returns the code's name in the RFC.
func (c ErrCode) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return "0x" + strconv.FormatUint(uint64(c), 16)
}

// A StreamError ends one stream. Remote tells who ended it: the peer, or this
// end because of what the peer sent. Given to [Stream.Reset], its Code is the
// one that goes out.
type StreamError struct {
	Code   ErrCode
	Remote bool
	Cause  error // nil when the code says it all
}

func (e *StreamError) Error() string { return describe("h2: stream: ", e.Code, e.Remote, e.Cause) }

func (e *StreamError) Unwrap() error { return e.Cause }

// A ConnError ends the connection, and so every stream on it.
type ConnError struct {
	Code   ErrCode
	Remote bool
	Cause  error
}

func (e *ConnError) Error() string { return describe("h2: connection: ", e.Code, e.Remote, e.Cause) }

func (e *ConnError) Unwrap() error { return e.Cause }

func describe(what string, code ErrCode, remote bool, cause error) string {
	what += code.String()
	if remote {
		what += " from the peer"
	}
	if cause != nil {
		what += ": " + cause.Error()
	}
	return what
}

// ErrNoStreams is returned by [Conn.Open] when there is no room for another
// stream: the peer's limit or our own is reached, or either side is draining.
var ErrNoStreams = errors.New("h2: open: no stream to be had")

// ErrClosed is what streams are told when the connection was closed without
// any other reason.
var ErrClosed = errors.New("h2: connection: closed")

// Refused reports whether err says that the peer has done nothing at all about
// the request, so that it may be sent again elsewhere whatever its method (RFC
// 9113, section 8.7).
func Refused(err error) bool {
	var e *StreamError
	return errors.As(err, &e) && e.Remote && e.Code == CodeRefusedStream
}

// broken is a connection error of our own finding.
func broken(code ErrCode, reason string) error {
	return &ConnError{Code: code, Cause: errors.New(reason)}
}
