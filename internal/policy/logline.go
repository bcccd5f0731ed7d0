package policy

import (
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"
)

// A value is one of the log's: whether the line has the key, and what for.
type value struct {
	text  string // of a string; of a number, as it is written
	there bool   // the line has the key
	null  bool   // and it is null
}

// has returns the value if there is one.
func (v value) has() (string, bool) { return v.text, v.there && !v.null }

// A logLine is what is read of one line of an access log. Its strings are parts of
// the line.
type logLine struct {
	method, path, authority                       value
	userAgent, forwardedFor                       value
	code, details, termination, flags             value
	upstreamHost, upstreamCluster                 value
	downstreamLocal, downstreamRemote, serverName value
	sourcePrincipal, requestPrincipal, policy     value
}

// slot returns where the value of a key belongs, or nil.
func (l *logLine) slot(key string) *value {
	switch key {
	case "method":
		return &l.method
	case "path":
		return &l.path
	case "authority":
		return &l.authority
	case "user_agent":
		return &l.userAgent
	case "x_forwarded_for":
		return &l.forwardedFor
	case "response_code":
		return &l.code
	case "response_code_details":
		return &l.details
	case "connection_termination_details":
		return &l.termination
	case "response_flags":
		return &l.flags
	case "upstream_host":
		return &l.upstreamHost
	case "upstream_cluster":
		return &l.upstreamCluster
	case "downstream_local_address":
		return &l.downstreamLocal
	case "downstream_remote_address":
		return &l.downstreamRemote
	case "requested_server_name":
		return &l.serverName
	case "source_principal":
		return &l.sourcePrincipal
	case "request_principal":
		return &l.requestPrincipal
	case "policy":
		return &l.policy
	}
	return nil
}

// The reasons why a line is not read.
var (
	errNotJSON   = errors.New("it is not a JSON object")
	errNotAccess = errors.New("it has neither response_code nor downstream_local_address: it is not of an access log")
)

// read reads a line. It takes what encoding/json takes, and is some times as fast:
// see FuzzLogLine. Values that are neither strings, numbers nor null count as
// missing.
func (l *logLine) read(line string) error {
	*l = logLine{}
	s := scanner{text: line}
	if !s.object(l) {
		return errNotJSON
	}
	if !l.code.there && !l.downstreamLocal.there {
		return errNotAccess
	}
	return nil
}

// A scanner reads JSON (RFC 8259) from left to right.
type scanner struct {
	text string
	at   int
}

// space skips white space, and returns the byte after it, or 0.
func (s *scanner) space() byte {
	for s.at < len(s.text) {
		switch c := s.text[s.at]; c {
		case ' ', '\t', '\r', '\n':
			s.at++
		default:
			return c
		}
	}
	return 0
}

// object reads a whole text that is an object.
func (s *scanner) object(l *logLine) bool {
	if s.space() != '{' {
		return false
	}
	s.at++
	if s.space() == '}' {
		s.at++
		return s.end()
	}
	for {
		if s.space() != '"' {
			return false
		}
		key, ok := s.string()
		if !ok || s.space() != ':' {
			return false
		}
		s.at++
		if !s.value(l.slot(key)) {
			return false
		}
		switch s.space() {
		case ',':
			s.at++
		case '}':
			s.at++
			return s.end()
		default:
			return false
		}
	}
}

func (s *scanner) end() bool { return s.space() == 0 && s.at == len(s.text) }

// value reads a value into v, which may be nil.
func (s *scanner) value(v *value) bool {
	out := value{there: true}
	var ok bool
	switch c := s.space(); {
	case c == '"':
		out.text, ok = s.string()
	case c == '-' || '0' <= c && c <= '9':
		out.text, ok = s.number()
	case c == 'n':
		out.null, ok = true, s.word("null")
	case c == 't':
		out, ok = value{}, s.word("true")
	case c == 'f':
		out, ok = value{}, s.word("false")
	case c == '{' || c == '[':
		out, ok = value{}, s.nested()
	default:
		return false
	}
	if v != nil {
		*v = out
	}
	return ok
}

func (s *scanner) word(w string) bool {
	if !strings.HasPrefix(s.text[s.at:], w) {
		return false
	}
	s.at += len(w)
	return true
}

// What a byte is inside of a string.
const (
	plainByte   = iota
	quoteByte   // ends it
	escapeByte  // begins an escape
	controlByte // may not be there
	highByte    // is of UTF-8, or should be
)

var byteKinds = func() (kinds [256]uint8) {
	for c := range kinds {
		switch {
		case c == '"':
			kinds[c] = quoteByte
		case c == '\\':
			kinds[c] = escapeByte
		case c < 0x20:
			kinds[c] = controlByte
		case c >= utf8.RuneSelf:
			kinds[c] = highByte
		}
	}
	return kinds
}()

// string reads a string, from its first quote. Most have nothing to unescape.
func (s *scanner) string() (string, bool) {
	from, odd := s.at, false
	for i := from + 1; i < len(s.text); i++ {
		switch byteKinds[s.text[i]] {
		case plainByte:
		case quoteByte:
			s.at = i + 1
			if !odd {
				return s.text[from+1 : i], true
			}
			var out string
			err := json.Unmarshal([]byte(s.text[from:s.at]), &out)
			return out, err == nil
		case escapeByte:
			odd = true
			i++
		case controlByte:
			return "", false
		case highByte:
			odd = true
		}
	}
	return "", false
}

// number reads a number.
func (s *scanner) number() (string, bool) {
	from := s.at
	if s.text[s.at] == '-' {
		s.at++
	}
	whole := s.digits()
	if whole == 0 || whole > 1 && s.text[s.at-whole] == '0' {
		return "", false
	}
	if s.at < len(s.text) && s.text[s.at] == '.' {
		s.at++
		if s.digits() == 0 {
			return "", false
		}
	}
	if s.at < len(s.text) && (s.text[s.at] == 'e' || s.text[s.at] == 'E') {
		s.at++
		if s.at < len(s.text) && (s.text[s.at] == '+' || s.text[s.at] == '-') {
			s.at++
		}
		if s.digits() == 0 {
			return "", false
		}
	}
	return s.text[from:s.at], true
}

func (s *scanner) digits() (n int) {
	for s.at < len(s.text) && '0' <= s.text[s.at] && s.text[s.at] <= '9' {
		s.at++
		n++
	}
	return n
}

// nested skips an object or an array. Our keys have none, so that others may be as
// slow as they like.
func (s *scanner) nested() bool {
	d := json.NewDecoder(strings.NewReader(s.text[s.at:]))
	var skipped json.RawMessage
	if d.Decode(&skipped) != nil {
		return false
	}
	s.at += int(d.InputOffset())
	return true
}
