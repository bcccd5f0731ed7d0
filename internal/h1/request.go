package h1

import (
	"bytes"

	"github.com/waystone-mesh/waystone/internal/l7"
)

// request parses the lines of b into r, and returns the minor version.
func (h *head) request(b []byte, r *l7.Request, l *Limits) (minor byte, err *Error) {
	line, start := h.first(b)
	method, rest, ok1 := bytes.Cut(line, space)
	target, version, ok2 := bytes.Cut(rest, space)
	if !ok1 || !ok2 || len(method) == 0 || len(target) == 0 {
		return 0, errRequestLine
	}
	for _, c := range method {
		if lower[c] == 0 {
			return 0, errMethod
		}
	}
	if minor, err = parseVersion(version, errRequestLine); err != nil {
		return 0, err
	}
	if len(target) > l.Target {
		return 0, errTarget
	}
	for _, c := range target {
		if c <= ' ' || c >= 0x7f || c == '#' {
			return 0, errTargetByte
		}
	}
	if err := h.parseFields(b, 1, start); err != nil {
		return 0, err
	}
	*r = l7.Request{Method: view(method), Scheme: "http", Length: h.length, Fields: h.fields}
	if minor == 0 {
		r.Protocol = l7.HTTP10
	}
	if err := h.target(r, target, minor); err != nil {
		return 0, err
	}
	if err := h.framing(minor); err != nil {
		return 0, err
	}
	switch {
	case h.chunked:
		r.Length = -1
	case h.length < 0:
		r.Length = 0
	}
	// RFC 9110, section 7.8: a server may ignore Upgrade. We do for 1.0, as it
	// asks, and for a request with content: two protocols' bytes would follow
	// one head.
	if h.options&optUpgrade != 0 && h.upgrades == 1 && minor == 1 && r.Length == 0 {
		r.Upgrade = h.upgrade
	}
	h.expect = h.expect && minor == 1 && r.Length != 0
	return minor, nil
}

// target fills in Authority and Path from the request target and Host (RFC
// 9112, sections 3.2 and 3.3).
func (h *head) target(r *l7.Request, target []byte, minor byte) *Error {
	switch {
	case h.hosts > 1:
		return errHosts
	case h.hosts == 0 && minor == 1:
		return errNoHost
	case !validAuthority(h.host):
		return errHost
	case r.Method == "CONNECT":
		return errConnect
	}
	r.Authority, r.Path = h.host, view(target)
	if target[0] == '/' {
		return nil
	}
	if r.Path == "*" {
		if r.Method != "OPTIONS" {
			return errAsterisk
		}
		return nil
	}
	rest, ok := cutScheme(target)
	if !ok {
		return errTargetForm
	}
	n := bytes.IndexAny(rest, "/?")
	if n < 0 {
		n = len(rest)
	}
	r.Authority, r.Path = view(rest[:n]), view(rest[n:])
	switch {
	case n == 0 || !validAuthority(r.Authority) || r.Authority[0] == ':':
		return errTargetForm
	case r.Path == "" && r.Method == "OPTIONS":
		r.Path = "*"
	case r.Path == "":
		r.Path = "/"
	case r.Path[0] == '?':
		r.Path = "/" + r.Path
	}
	return nil
}

// cutScheme takes http:// or https:// off an absolute URI. The scheme itself is
// of no interest: in a tunnel neither is more secure than the other.
func cutScheme(b []byte) ([]byte, bool) {
	i := bytes.IndexByte(b, ':')
	if i < 0 || !bytes.HasPrefix(b[i:], []byte("://")) {
		return nil, false
	}
	if !equalFold(b[:i], "http") && !equalFold(b[:i], "https") {
		return nil, false
	}
	return b[i+3:], true
}

// validAuthority reports whether s is a host and an optional port (RFC 3986,
// section 3.2, without user information), or empty.
func validAuthority(s string) bool {
	if len(s) > 0 && s[0] == '[' {
		i := 1
		for i < len(s) && s[i] != ']' {
			if c := s[i]; c != ':' && (!inHost(c) || c == '[') {
				return false
			}
			i++
		}
		return i > 1 && i < len(s) && validPort(s[i+1:])
	}
	for i := range len(s) {
		if s[i] == ':' {
			return validPort(s[i:])
		}
		if !inHost(s[i]) {
			return false
		}
	}
	return true
}

func validPort(s string) bool {
	if s == "" {
		return true
	}
	if s[0] != ':' || len(s) > 6 {
		return false
	}
	for _, c := range []byte(s[1:]) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// inHost reports whether c may be in a registered name: unreserved, sub-delims
// or part of an escape.
func inHost(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	switch c {
	case '-', '.', '_', '~', '%', '!', '$', '&', '\'', '(', ')', '*', '+', ',', ';', '=':
		return true
	}
	return false
}

// parseVersion takes HTTP/1.0 and HTTP/1.1. What is no version at all is a
// malformed line.
func parseVersion(v []byte, malformed *Error) (minor byte, err *Error) {
	if len(v) != 8 || string(v[:5]) != "HTTP/" || v[6] != '.' || !digit(v[5]) || !digit(v[7]) {
		return 0, malformed
	}
	if v[5] != '1' || v[7] > '1' {
		return 0, errVersion
	}
	return v[7] - '0', nil
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

var space = []byte{' '}
