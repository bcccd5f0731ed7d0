package authz

import (
	"errors"
	"fmt"
	"strings"
)

// The operators of a path template.
const (
	oneSegment  = "{*}"
	anySegments = "{**}"
)

// A template is a path in which {*} stands for one segment and {**} for any
// number of characters, slashes included. Each fills the place between two
// slashes; {**} is the last one.
type template struct {
	literals []string // around each {*}: one more than there are
	any      bool     // the last literal is followed by {**}
	rest     string   // and that by rest
}

// isTemplate reports whether a path is a template.
func isTemplate(path string) bool {
	return strings.Contains(path, oneSegment) || strings.Contains(path, anySegments)
}

// Template matches the paths that fit a template.
func Template(path string) (Matcher, error) {
	if err := checkPath(path); err != nil {
		return Matcher{}, err
	}
	head, rest, wild := strings.Cut(path, anySegments)
	t := &template{literals: strings.Split(head, oneSegment), any: wild, rest: rest}
	return Matcher{kind: kindTemplate, s: path, template: t}, nil
}

// checkPath says what is wrong with a path of a policy, template or not.
func checkPath(path string) error {
	if path == "" {
		return errors.New("an empty value is not allowed")
	}
	tmpl, last := isTemplate(path), false
	for _, segment := range strings.Split(strings.Trim(path, "/"), "/") {
		if segment == oneSegment || segment == anySegments {
			if last {
				return fmt.Errorf("%q: {**} must be the last operator", path)
			}
			last = segment == anySegments
			continue
		}
		if strings.ContainsAny(segment, "{}") {
			return fmt.Errorf("%q: { and } are allowed only as {*} or {**} between two slashes", path)
		}
		if tmpl && (segment == "" || !pathChars(segment, false)) {
			return fmt.Errorf("%q: segment %q next to a template has a character that a path cannot have unescaped, or is empty", path, segment)
		}
	}
	return nil
}

// pathChars reports whether s consists of the characters that a template's
// operators stand for: pchar of RFC 3986, appendix A, but not "*", as in Envoy;
// and slashes if so told.
func pathChars(s string, slash bool) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("-._~%!$&'()+,;:@=", c) >= 0:
		case c == '/' && slash:
		default:
			return false
		}
	}
	return true
}

func (t *template) match(path string) bool {
	path, ok := strings.CutPrefix(path, t.literals[0])
	if !ok {
		return false
	}
	for _, literal := range t.literals[1:] {
		n := strings.IndexByte(path, '/')
		if n < 0 {
			n = len(path)
		}
		if n == 0 || !pathChars(path[:n], false) {
			return false
		}
		if path, ok = strings.CutPrefix(path[n:], literal); !ok {
			return false
		}
	}
	if !t.any {
		return path == ""
	}
	path, ok = strings.CutSuffix(path, t.rest)
	return ok && pathChars(path, true)
}
