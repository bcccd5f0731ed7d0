package ztunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// SOCKS5 (RFC 1928), as much of it as a client of ours needs: no authentication,
// because the listener is the pod's own, and CONNECT.
const (
	socksVersion = 5
	socksConnect = 1

	socksIPv4 = 1
	socksName = 3
	socksIPv6 = 4
)

// The replies of RFC 1928, section 6.
const (
	socksOK           = 0
	socksFailure      = 1
	socksNotAllowed   = 2
	socksNoNetwork    = 3
	socksUnreachable  = 4
	socksRefused      = 5
	socksBadCommand   = 7
	socksBadAddress   = 8
	socksNoAcceptable = 0xff
	socksNoAuthNeeded = 0
)

// A socksError is a request that is answered with a reply and nothing else.
type socksError struct {
	reply  byte
	reason string
}

func (e *socksError) Error() string { return "socks: " + e.reason }

var errNotSOCKS5 = errors.New("socks: the client does not speak SOCKS5")

// socks reads what a client says, as a state machine: bytes in, bytes out.
type socks struct {
	buf     []byte
	greeted bool
}

// read takes what has come. It appends what is to be answered to out and, once
// the request is whole, returns the target and what of p follows it. The error
// is a *socksError when the client is owed a reply, which out has already if it
// is about the methods. What waits is bounded: a request of any length is whole,
// or wrong, within 519 bytes.
func (s *socks) read(p, out []byte) (reply []byte, target mesh.Authority, rest []byte, done bool, err error) {
	s.buf = append(s.buf, p...)
	if !s.greeted {
		n, ok, err := greeting(s.buf)
		if err != nil || n == 0 {
			return out, target, nil, false, err
		}
		if !ok {
			return append(out, socksVersion, socksNoAcceptable), target, nil, false, &socksError{socksNoAcceptable, "the client insists on authentication"}
		}
		out = append(out, socksVersion, socksNoAuthNeeded)
		s.buf, s.greeted = s.buf[n:], true
	}
	target, n, err := request(s.buf)
	if err != nil {
		return out, target, nil, false, err
	}
	if n == 0 {
		return out, target, nil, false, nil
	}
	return out, target, s.buf[n:], true, nil
}

// greeting reads the methods a client offers; n is 0 while there are more to
// come, ok whether it would do without authentication.
func greeting(b []byte) (n int, ok bool, err error) {
	if len(b) > 0 && b[0] != socksVersion {
		return 0, false, errNotSOCKS5
	}
	if len(b) < 2 || len(b) < 2+int(b[1]) {
		return 0, false, nil
	}
	n = 2 + int(b[1])
	for _, m := range b[2:n] {
		ok = ok || m == socksNoAuthNeeded
	}
	return n, ok, nil
}

// request reads where a client wants to go; n is 0 while there is more to come.
func request(b []byte) (target mesh.Authority, n int, err error) {
	if len(b) < 5 {
		return target, 0, nil
	}
	if b[0] != socksVersion {
		return target, 0, errNotSOCKS5
	}
	if b[1] != socksConnect {
		return target, 0, &socksError{socksBadCommand, fmt.Sprintf("command %d is not CONNECT", b[1])}
	}
	size := 0
	switch b[3] {
	case socksIPv4:
		size = 4
	case socksIPv6:
		size = 16
	case socksName:
		size = 1 + int(b[4])
	default:
		return target, 0, &socksError{socksBadAddress, fmt.Sprintf("address type %d is not known", b[3])}
	}
	if len(b) < 4+size+2 {
		return target, 0, nil
	}
	addr, port := b[4:4+size], binary.BigEndian.Uint16(b[4+size:])
	if port == 0 {
		return target, 0, &socksError{socksFailure, "port 0"}
	}
	if b[3] == socksName {
		target, err = mesh.ParseAuthority(fmt.Sprintf("%s:%d", hostOf(addr[1:]), port))
		if err != nil {
			return target, 0, &socksError{socksBadAddress, err.Error()}
		}
	} else {
		ip, _ := netip.AddrFromSlice(addr)
		target = mesh.Authority{IP: ip.Unmap(), Port: port}
	}
	return target, 4 + size + 2, nil
}

// hostOf writes an address that a client sent as a name the way an authority
// has it.
func hostOf(name []byte) string {
	if ip, err := netip.ParseAddr(string(name)); err == nil && ip.Is6() {
		return "[" + ip.String() + "]"
	}
	return string(name)
}

// appendReply appends a reply; the bound address means nothing to anybody.
func appendReply(b []byte, code byte) []byte {
	return append(b, socksVersion, code, 0, socksIPv4, 0, 0, 0, 0, 0, 0)
}

// replyFor is the reply that tells the client best how it went.
func replyFor(err error) byte {
	var (
		socks   *socksError
		status  *hbone.StatusError
		timeout interface{ Timeout() bool }
	)
	switch {
	case err == nil:
		return socksOK
	case errors.As(err, &socks):
		return socks.reply
	case errors.As(err, &status) && status.Status == 401, errors.Is(err, errSelfCall), errors.Is(err, errNotInRegistry):
		return socksNotAllowed
	case errors.Is(err, errOtherNetwork):
		return socksNoNetwork
	case errors.Is(err, errUnknownName), errors.As(err, &timeout) && timeout.Timeout():
		return socksUnreachable
	}
	return socksRefused
}
