package h1

import (
	"github.com/waystone-mesh/waystone/internal/l7"
)

// response parses the lines of b into r, and returns the minor version. The
// length in r is what the fields declare; that of a response which has no
// content whatever they say is the caller's to know.
func (h *head) response(b []byte, r *l7.Response) (minor byte, err *Error) {
	line, start := h.first(b)
	if len(line) < 12 || line[8] != ' ' || !digit(line[9]) || !digit(line[10]) || !digit(line[11]) {
		return 0, errStatusLine
	}
	if minor, err = parseVersion(line[:8], errStatusLine); err != nil {
		return 0, err
	}
	// The space after the status is not optional, but often left out with the
	// reason; nothing hangs on it.
	if reason := line[12:]; len(reason) > 0 && (reason[0] != ' ' || !validValue(reason)) {
		return 0, errStatusLine
	}
	status := int(line[9]-'0')*100 + int(line[10]-'0')*10 + int(line[11]-'0')
	if status < 100 {
		return 0, errStatusLine
	}
	if err := h.parseFields(b, 1, start); err != nil {
		return 0, err
	}
	if err := h.framing(minor); err != nil {
		return 0, err
	}
	*r = l7.Response{Status: status, Length: h.length, Fields: h.fields}
	if status == 101 {
		r.Upgrade = h.upgrade
	}
	return minor, nil
}
