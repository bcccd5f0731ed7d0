package jwt

import (
	"strings"

	"github.com/waystone-mesh/waystone/internal/l7"
)

// A location is a place for tokens in a request.
type location struct {
	kind place
	name string
}

type place uint8

const (
	inHeader place = iota
	inParam
	inCookie
)

// A found token is what stands at a location, which may be anything.
type found struct {
	location
	text string // a view of the request
}

// locate appends the tokens that r looks for in req. What is gone is not looked
// at.
func (r *rule) locate(req *l7.Request, gone []location, out []found) []found {
	for i := range r.headers {
		h := &r.headers[i]
		at := location{inHeader, h.Name}
		if !isGone(gone, at) {
			out = h.values(req.Fields, at, out)
		}
	}
	if _, query, ok := strings.Cut(req.Path, "?"); ok {
		for _, name := range r.params {
			if at := (location{inParam, name}); !isGone(gone, at) {
				out = params(query, at, out)
			}
		}
	}
	for _, name := range r.cookies {
		at := location{inCookie, name}
		if isGone(gone, at) {
			continue
		}
		for j := range req.Fields {
			if f := &req.Fields[j]; f.Name == "cookie" {
				out = cookies(f.Value, at, out)
			}
		}
	}
	return out
}

// values appends what stands in the fields called h.Name. Of authorization there
// is but one (RFC 9110, section 11.6.2): several are taken for one, and it is bad.
func (h *Header) values(fields l7.Fields, at location, out []found) []found {
	if h.Name == "authorization" {
		if value, ok := fields.Joined(h.Name); ok {
			out = h.value(value, at, out)
		}
		return out
	}
	for i := range fields {
		if fields[i].Name == h.Name {
			out = h.value(fields[i].Value, at, out)
		}
	}
	return out
}

func (h *Header) value(value string, at location, out []found) []found {
	if text, ok := afterPrefix(value, h.Prefix); ok {
		out = append(out, found{at, text})
	}
	return out
}

func isGone(gone []location, at location) bool {
	for i := range gone {
		if gone[i] == at {
			return true
		}
	}
	return false
}

// afterPrefix returns what follows prefix in a field's value, from the first
// character on that may be a token's. A value that does not have the prefix has
// no token; the prefix may come late, as in "realm Bearer x".
func afterPrefix(value, prefix string) (string, bool) {
	if prefix == "" {
		return value, true
	}
	i := strings.Index(value, prefix)
	if i < 0 {
		return "", false
	}
	rest := value[i+len(prefix):]
	for j := range len(rest) {
		if isTokenByte(rest[j]) {
			return rest[j:], true
		}
	}
	return value, true // a token, of a kind: not one to let pass
}

func isTokenByte(c byte) bool { return alphanumeric(rune(c)) || c == '-' || c == '_' || c == '.' }

// params appends the values of a query's parameters called at.name.
func params(query string, at location, out []found) []found {
	for more := true; more; {
		var pair string
		pair, query, more = strings.Cut(query, "&")
		if name, value, _ := strings.Cut(pair, "="); unescape(name) == at.name {
			out = append(out, found{at, unescape(value)})
		}
	}
	return out
}

// unescape decodes what is percent-encoded and leaves what only seems to be. A
// plus sign is one.
func unescape(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			high, low := nibble(s[i+1]), nibble(s[i+2])
			if high >= 0 && low >= 0 {
				b = append(b, byte(high<<4|low))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

func nibble(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

// cookies appends the values of a cookie field's pairs called at.name.
func cookies(field string, at location, out []found) []found {
	for more := true; more; {
		var pair string
		pair, field, more = strings.Cut(field, ";")
		if name, value, ok := strings.Cut(strings.Trim(pair, " "), "="); ok && name == at.name {
			if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
				value = value[1 : n-1]
			}
			out = append(out, found{at, value})
		}
	}
	return out
}
