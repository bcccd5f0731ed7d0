package routing

import (
	"errors"
	"fmt"
	"strings"
)

// A Normalization says how much of a path is made canonical before policies
// and routes look at it and before it is forwarded: MeshConfig's
// pathNormalization. Each includes what the one before it does.
type Normalization uint8

// The normalisations. The zero one is Istio's default.
const (
	NormalizeBase         Normalization = iota // dot segments removed, \ to /, escapes of unreserved characters decoded (RFC 3986, section 6.2.2)
	NormalizeNone                              // nothing is changed
	MergeSlashes                               // and // to /
	DecodeAndMergeSlashes                      // and %2F and %5C to /, before everything else
)

// ParseNormalization reads Istio's name of a normalisation; "" and "DEFAULT"
// are BASE.
func ParseNormalization(s string) (Normalization, error) {
	switch s {
	case "", "DEFAULT", "BASE":
		return NormalizeBase, nil
	case "NONE":
		return NormalizeNone, nil
	case "MERGE_SLASHES":
		return MergeSlashes, nil
	case "DECODE_AND_MERGE_SLASHES":
		return DecodeAndMergeSlashes, nil
	}
	return 0, fmt.Errorf("path normalization: %q is none of NONE, BASE, MERGE_SLASHES, DECODE_AND_MERGE_SLASHES", s)
}

func (n Normalization) String() string {
	return [...]string{"BASE", "NONE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"}[n]
}

// The reasons to answer 400 for a path.
var (
	ErrPathForm     = errors.New("path: does not begin with a slash")
	ErrPathNUL      = errors.New("path: escaped NUL")
	ErrPathFragment = errors.New("path: fragment")
	ErrPathControl  = errors.New("path: space or control character")
)

// Normalize returns the path, which may have a query, made canonical. The
// query is left as it is, and so is "*". Doing it twice changes nothing more.
//
// An error is the client's fault and is answered with 400: a path that is not
// in origin form, a raw "#" or a raw space or control character anywhere, %00
// in the path. They are refused whatever the normalisation, because no two
// programs agree on what they mean.
//
// Normalize allocates nothing when the path is already normal.
func Normalize(n Normalization, path string) (string, error) {
	if path == "*" {
		return path, nil
	}
	if path == "" || path[0] != '/' {
		return "", ErrPathForm
	}
	end, normal, err := examine(n, path)
	if err != nil {
		return "", err
	}
	if normal || n == NormalizeNone {
		return path, nil
	}
	b := make([]byte, 0, len(path))
	b = decode(b, n, path[:end])
	b = removeDots(b)
	if n == MergeSlashes || n == DecodeAndMergeSlashes {
		b = mergeSlashes(b)
	}
	return string(append(b, path[end:]...)), nil
}

// examine finds the end of the path proper and what forbids it, and reports
// whether it is surely normal.
func examine(n Normalization, path string) (end int, normal bool, err error) {
	end, normal = len(path), true
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c > '?' && c != '\\' && c != 0x7f || c >= '0' && c <= '9' {
			continue // most of every path
		}
		switch {
		case c <= ' ' || c == 0x7f:
			return 0, false, ErrPathControl
		case c == '#':
			return 0, false, ErrPathFragment
		case end < len(path): // in the query
		case c == '?':
			end = i
		case c == '\\':
			normal = false
		case c == '/':
			normal = normal && !abnormalSlash(n, path[i+1:])
		case c == '%':
			d, ok := escapeAt(path, i)
			if ok && d == 0 {
				return 0, false, ErrPathNUL
			}
			normal = normal && (!ok || !decodes(n, d))
		}
	}
	return end, normal, nil
}

// abnormalSlash reports whether what follows a slash has to go.
func abnormalSlash(n Normalization, rest string) bool {
	if rest == "" {
		return false
	}
	if rest[0] == '/' {
		return n == MergeSlashes || n == DecodeAndMergeSlashes
	}
	if rest[0] != '.' {
		return false
	}
	segment := rest
	if i := strings.IndexAny(rest, "/\\?"); i >= 0 {
		segment = rest[:i]
	}
	return segment == "." || segment == ".."
}

// decodes reports whether an escape of c is to be decoded.
func decodes(n Normalization, c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '.', c == '_', c == '~':
		return true
	case c == '/', c == '\\':
		return n == DecodeAndMergeSlashes
	}
	return false
}

// decode appends path to b with its escapes decoded and its backslashes turned.
func decode(b []byte, n Normalization, path string) []byte {
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c == '%' {
			if d, ok := escapeAt(path, i); ok && decodes(n, d) && !completes(b, d) {
				c = d
				i += 2
			}
		}
		if c == '\\' {
			c = '/'
		}
		b = append(b, c)
	}
	return b
}

// completes reports whether c would make an escape of a percent sign that is
// none: in %%32e, decoding %32 would leave %2e, which the next program along
// the way decodes again, and the path would have two meanings.
func completes(b []byte, c byte) bool {
	if _, ok := unhex(c); !ok {
		return false
	}
	n := len(b)
	if n >= 1 && b[n-1] == '%' {
		return true
	}
	if n < 2 || b[n-2] != '%' {
		return false
	}
	_, ok := unhex(b[n-1])
	return ok
}

// removeDots removes dot segments in place (RFC 3986, section 5.2.4).
func removeDots(b []byte) []byte {
	out := b[:0]
	for i := 0; i < len(b); {
		end := i + 1
		for end < len(b) && b[end] != '/' {
			end++
		}
		segment := b[i:end] // with its slash
		last := end == len(b)
		switch string(segment) {
		case "/.":
		case "/..":
			for len(out) > 0 && out[len(out)-1] != '/' {
				out = out[:len(out)-1]
			}
			if len(out) > 0 {
				out = out[:len(out)-1]
			}
		default:
			out, last = append(out, segment...), false
		}
		if last {
			out = append(out, '/')
		}
		i = end
	}
	return out
}

// mergeSlashes makes one slash of many, in place.
func mergeSlashes(b []byte) []byte {
	out := b[:0]
	for _, c := range b {
		if c != '/' || len(out) == 0 || out[len(out)-1] != '/' {
			out = append(out, c)
		}
	}
	return out
}
