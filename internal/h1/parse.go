package h1

import (
	"bytes"
	"sync"

	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// A kind says which rules a block of lines follows.
type kind uint8

const (
	request kind = iota
	response
	trailers
)

// A head is one block of lines while it is read: it finds the lines, gathers
// them when they arrive in pieces, and parses them. Strings in it are views of
// the bytes read, and so is everything it fills in.
type head struct {
	kind kind

	// The lines. Offsets are from the first byte of the block.
	ends  []int32 // where each line ends, past its CRLF
	line  int     // where the current line starts
	seen  int     // bytes searched for a line end
	blank bool    // a line end before the request line was skipped
	buf   *bufs.Buffer
	big   []byte // instead of buf, for the rare head that no buffer holds

	// The fields.
	fields    l7.Fields
	nominated []string // fields that Connection names
	host      string
	hosts     int
	length    int64 // -1 without content-length
	codings   int   // transfer-encoding fields
	chunked   bool
	coding    string // the transfer-encoding that is not exactly chunked
	upgrade   string
	upgrades  int
	te        bool
	expect    bool // 100-continue
	options   option

	// What is made of it: here rather than in the codec, of which there are many
	// more, nearly all idle.
	req l7.Request
	res l7.Response
}

// An option is what a Connection field asks for.
type option uint8

const (
	optClose option = 1 << iota
	optKeepAlive
	optUpgrade
)

var heads = sync.Pool{New: func() any {
	return &head{fields: make(l7.Fields, 0, 32), ends: make([]int32, 0, 32)}
}}

func newHead(k kind) *head {
	h := heads.Get().(*head)
	h.kind, h.length = k, -1
	return h
}

// release ends the life of every string that h gave out.
func (h *head) release() {
	if h.buf != nil {
		h.buf.Free()
	}
	// The slices stay, without what they pointed at.
	clear(h.fields[:cap(h.fields)])
	clear(h.nominated)
	*h = head{fields: h.fields[:0], ends: h.ends[:0], nominated: h.nominated[:0]}
	heads.Put(h)
}

// parseFields parses the lines of b from the one at start, which is the n-th,
// folding names to lower case in place.
func (h *head) parseFields(b []byte, n, start int) *Error {
	for _, e := range h.ends[n:] {
		end := int(e)
		line := b[start : end-2]
		start = end
		i := 0
		for ; i < len(line); i++ {
			c := lower[line[i]]
			if c == 0 {
				break
			}
			line[i] = c
		}
		if i == 0 || i == len(line) || line[i] != ':' {
			switch {
			case i == 0 && (line[0] == ' ' || line[0] == '\t'):
				return errFold
			case i > 0 && i < len(line) && (line[i] == ' ' || line[i] == '\t'):
				return errSpace
			}
			return errName
		}
		value := trim(line[i+1:])
		if !validValue(value) {
			return errValue
		}
		keep, err := h.field(view(line[:i]), value)
		if err != nil {
			return err
		}
		if keep {
			h.fields = append(h.fields, l7.Field{Name: view(line[:i]), Value: view(value)})
		}
	}
	h.dropNominated()
	return nil
}

// field notes a field that means something to framing or to the connection, and
// reports whether it is to be passed on.
func (h *head) field(name string, value []byte) (keep bool, err *Error) {
	if h.kind == trailers {
		// RFC 9110, section 6.5.1: nothing that frames, routes or belongs to the
		// connection may come this late. It has no effect, and goes no further.
		return !hopByHop(name) && name != "content-length" && name != "host" && name != "trailer", nil
	}
	switch name {
	case "host":
		if h.kind == request {
			h.hosts++
			h.host = view(value)
			return false, nil
		}
	case "content-length":
		if h.length >= 0 {
			return false, errLengths
		}
		h.length, err = parseLength(value)
		return true, err
	case "transfer-encoding":
		h.codings++
		h.chunked = equalFold(value, "chunked")
		h.coding = view(value)
	case "connection":
		return false, h.connection(value)
	case "upgrade":
		h.upgrades++
		h.upgrade = view(value)
	case "te":
		if !h.te && hasToken(value, "trailers") {
			h.te = true
			h.fields = append(h.fields, l7.Field{Name: "te", Value: "trailers"})
		}
	case "expect":
		h.expect = equalFold(value, "100-continue")
		return true, nil
	}
	return !hopByHop(name), nil
}

// hopByHop reports whether the field is the connection's, whether or not its
// Connection field says so.
func hopByHop(name string) bool {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade":
		return true
	}
	return false
}

// connection reads the options of a Connection field.
func (h *head) connection(list []byte) *Error {
	for len(list) > 0 {
		var item []byte
		item, list = cut(list, ',')
		item = trim(item)
		for i, c := range item {
			if item[i] = lower[c]; item[i] == 0 {
				return errOption
			}
		}
		switch name := view(item); name {
		case "", "te", "transfer-encoding", "content-length", "host":
			// An empty item is allowed; the others are dealt with by name.
		case "close":
			h.options |= optClose
		case "keep-alive":
			h.options |= optKeepAlive
		case "upgrade":
			h.options |= optUpgrade
		default:
			h.nominated = append(h.nominated, name)
		}
	}
	return nil
}

// dropNominated removes the fields that Connection names (RFC 9110, section
// 7.6.1).
func (h *head) dropNominated() {
	for _, name := range h.nominated {
		if h.fields.Has(name) {
			h.fields = h.fields.Del(name)
		}
	}
}

// framing checks that there is one way to tell where the content ends.
func (h *head) framing(minor byte) *Error {
	switch {
	case h.codings == 0:
		return nil
	case h.codings > 1:
		return errCodings
	case minor == 0:
		return errCoding10
	case !h.chunked:
		list := bytesOf(h.coding)
		if i := bytes.LastIndexByte(list, ','); i >= 0 && equalFold(trim(list[i+1:]), "chunked") {
			return errCodingUnknown
		}
		return errCoding
	case h.length >= 0:
		return errBoth
	}
	return nil
}

// keepAlive reports whether the connection outlives the message (RFC 9112,
// section 9.3).
func (h *head) keepAlive(minor byte) bool {
	if h.options&optClose != 0 {
		return false
	}
	return minor == 1 || h.options&optKeepAlive != 0
}

// parseLength takes digits alone: no sign, no list, nothing that overflows.
func parseLength(v []byte) (int64, *Error) {
	if len(v) == 0 || len(v) > 18 { // 10¹⁸ < 2⁶³
		return -1, errLengthValue
	}
	var n int64
	for _, c := range v {
		if c < '0' || c > '9' {
			return -1, errLengthValue
		}
		n = n*10 + int64(c-'0')
	}
	return n, nil
}

// cut returns what is before the first c and what is after it.
func cut(b []byte, c byte) (before, after []byte) {
	if i := bytes.IndexByte(b, c); i >= 0 {
		return b[:i], b[i+1:]
	}
	return b, nil
}

// hasToken reports whether the list has the token, parameters apart.
func hasToken(list []byte, token string) bool {
	for len(list) > 0 {
		var item []byte
		item, list = cut(list, ',')
		item, _ = cut(item, ';')
		if equalFold(trim(item), token) {
			return true
		}
	}
	return false
}
