package h2

import (
	"errors"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/waystone-mesh/waystone/internal/l7"
)

// A block is a header block on its way in. It is decoded whatever becomes of its
// stream: the compression state is the connection's.
type block struct {
	open      bool // CONTINUATION is to come
	id        uint32
	end       bool // END_STREAM
	fragments int
	size      int // encoded octets so far

	// What is known of the stream when the block begins.
	kind  kind
	fault ErrCode // the stream is to be reset with it
	why   string

	// What the fields say.
	fields  l7.Fields
	list    int64  // the field section's size, as SETTINGS_MAX_HEADER_LIST_SIZE counts
	tooLong bool   // over our limit: the rest is not kept
	broken  string // why the message is malformed
	regular bool   // a field that is not a pseudo-field has been seen
	seen    uint8  // pseudo-fields seen, by the bits below
	length  int64  // content-length, -1 without one
	cookies int
}

// A kind is what a header block is for.
type kind uint8

const (
	ignored  kind = iota // nobody is waiting for it
	request              // opens a stream
	response             // final or informational
	trailers
)

// The pseudo-fields.
const (
	seenMethod = 1 << iota
	seenScheme
	seenAuthority
	seenPath
	seenStatus
)

// headersFrame begins a header block: it decides, before anything is decoded,
// what the block can be for.
func (c *Conn) headersFrame(f *http2.HeadersFrame) error {
	b := &c.block
	*b = block{id: f.StreamID, end: f.StreamEnded(), fields: b.fields[:0], length: -1}
	s := c.lookup(b.id)
	switch {
	case s != nil && s.inEnd:
		b.fault, b.why = CodeStreamClosed, "HEADERS after END_STREAM"
	case s != nil && s.c.role == Client && !s.answer:
		b.kind = response
	case s != nil:
		b.kind = trailers
	case c.role == Server && b.id&1 == 1 && b.id > c.peerID:
		b.kind = request
		c.peerID = b.id
	case c.idle(b.id):
		return broken(CodeProtocol, "HEADERS on a stream that the peer may not open")
	case c.resetIDs.has(b.id): // it crossed our RST_STREAM
	case c.endedIDs.has(b.id):
		return broken(CodeStreamClosed, "HEADERS on a closed stream")
	default:
		return broken(CodeProtocol, "HEADERS on a stream below the last one opened")
	}
	if f.HasPriority() && f.Priority.StreamDep == b.id {
		b.fault, b.why = CodeProtocol, "a stream depends on itself"
	}
	return c.fragment(f.HeaderBlockFragment(), f.HeadersEnded())
}

// fragment decodes a part of the header block.
func (c *Conn) fragment(p []byte, last bool) error {
	b := &c.block
	b.open = !last
	b.size += len(p)
	if b.fragments++; b.fragments > c.o.maxFragments() || b.size > c.o.maxBlock() {
		return broken(CodeEnhanceYourCalm, "a header block is too long")
	}
	if _, err := c.dec.Write(p); err != nil {
		if errors.Is(err, hpack.ErrStringLength) {
			return broken(CodeEnhanceYourCalm, "a field is too long")
		}
		return &ConnError{Code: CodeCompression, Cause: err}
	}
	if !last {
		return nil
	}
	c.dec.SetEmitEnabled(true)
	if err := c.dec.Close(); err != nil {
		return &ConnError{Code: CodeCompression, Cause: err}
	}
	err := c.headersDone()
	if cap(b.fields) > 64 {
		b.fields = nil
	}
	clear(b.fields[:cap(b.fields)]) // a field kept here would outlive its exchange
	b.size = 0
	return err
}

// field takes a decoded field.
func (c *Conn) field(f hpack.HeaderField) {
	b := &c.block
	if b.list += int64(f.Size()); b.list > int64(c.o.MaxHeaderList) {
		b.tooLong = true
		c.dec.SetEmitEnabled(false)
		return
	}
	if b.kind == ignored || b.broken != "" {
		return
	}
	if b.broken = b.check(f.Name, f.Value); b.broken != "" {
		return
	}
	b.fields = append(b.fields, l7.Field{Name: f.Name, Value: f.Value})
}

// headersDone acts on a header block that is complete.
func (c *Conn) headersDone() error {
	b := &c.block
	if b.fault == 0 && b.broken == "" {
		b.broken = b.complete()
	}
	if b.kind == request {
		return c.requestDone()
	}
	s := c.lookup(b.id)
	if s == nil { // ignored; or the Handler has reset it since
		return nil
	}
	switch {
	case b.fault != 0:
		return c.abort(s, b.fault, b.why)
	case b.tooLong:
		return c.abort(s, CodeEnhanceYourCalm, "a field section is too long")
	case b.broken != "":
		return c.abort(s, CodeProtocol, b.broken)
	case b.kind == trailers:
		if s.tunnel || s.connect && c.role == Server { // RFC 9113, section 8.5
			return c.abort(s, CodeProtocol, "HEADERS in a tunnel")
		}
		if !b.end {
			return c.abort(s, CodeProtocol, "trailers without END_STREAM")
		}
		if s.length > 0 {
			return c.abort(s, CodeProtocol, "content-length does not match the content")
		}
	case b.kind == response:
		if why := s.respond(b); why != "" {
			return c.abort(s, CodeProtocol, why)
		}
	}
	s.tell(b)
	return nil
}

// requestDone opens a stream, or says why not.
func (c *Conn) requestDone() error {
	b := &c.block
	switch {
	case b.fault != 0 || b.broken != "" || b.end && b.length > 0:
		if err := c.refuse(b.id, or(b.fault, CodeProtocol)); err != nil {
			return err
		}
		return c.canceled()
	case c.drain == final, len(c.streams) >= int(c.o.MaxStreams), c.out.waiting() > clogged:
		return c.refuse(b.id, CodeRefusedStream)
	case b.tooLong:
		// The one answer that is given here: the Handler cannot be shown the
		// request.
		c.putHeaders(b.id, l7.Fields{{Name: ":status", Value: "431"}}, true)
		return c.refuse(b.id, CodeNoError)
	}
	b.joinCookies()
	s := c.newStream(b.id)
	method := b.fields.Get(":method")
	s.connect, s.head = method == "CONNECT", method == "HEAD"
	if !s.connect {
		s.length = b.length
	}
	s.tell(b)
	return nil
}

// tell gives the Handler the fields of b, which may end the peer's direction.
func (s *Stream) tell(b *block) {
	s.inEnd = b.end
	s.c.h.Headers(s, b.fields, b.end)
	if b.end {
		s.finish()
	}
}

// respond takes in the head of a response, and says what is wrong with it.
func (s *Stream) respond(b *block) string {
	status := b.fields[0].Value
	if status[0] == '1' {
		if b.end || status == "101" {
			return "an informational response ends the stream or switches protocols"
		}
		return ""
	}
	s.answer = true
	if s.connect && status[0] == '2' {
		s.tunnel = true
		return ""
	}
	// To HEAD, and with 304, content-length says what there would have been.
	if s.length = b.length; s.head || status == "304" {
		s.length = 0
	}
	if b.end && s.length > 0 {
		return "content-length does not match the content"
	}
	return ""
}

// check says what is wrong with a field, "" for nothing (RFC 9113, sections
// 8.2 and 8.3).
func (b *block) check(name, value string) string {
	if len(name) > 0 && name[0] == ':' {
		return b.checkPseudo(name, value)
	}
	b.regular = true
	if !validName(name) {
		return "a field's name has characters that are not allowed"
	}
	if !validValue(value) {
		return "a field's value has characters that are not allowed"
	}
	switch name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		return "a field is about the connection"
	case "te":
		if value != "trailers" {
			return "te is not trailers"
		}
	case "cookie":
		b.cookies++
	case "content-length":
		n, ok := parseLength(value)
		if !ok || b.length >= 0 && b.length != n {
			return "content-length is not one number"
		}
		if b.kind != trailers {
			b.length = n
		}
	}
	return ""
}

func (b *block) checkPseudo(name, value string) string {
	bit := uint8(0)
	switch name {
	case ":method":
		bit = seenMethod
	case ":scheme":
		bit = seenScheme
	case ":authority":
		bit = seenAuthority
	case ":path":
		bit = seenPath
	case ":status":
		bit = seenStatus
	}
	switch {
	case bit == 0, b.kind == trailers, (bit == seenStatus) != (b.kind == response):
		return "a pseudo-field is unknown or out of place"
	case b.regular:
		return "a pseudo-field follows a field"
	case b.seen&bit != 0:
		return "a pseudo-field comes twice"
	}
	b.seen |= bit
	// A space in one of these would be a delimiter in HTTP/1.1.
	for i := range len(value) {
		if value[i] <= ' ' || value[i] == 0x7f {
			return "a pseudo-field has characters that are not allowed"
		}
	}
	return b.checkValue(bit, value)
}

// checkValue checks the pseudo-fields that are not free text.
func (b *block) checkValue(bit uint8, value string) string {
	ok := true
	switch bit {
	case seenMethod:
		ok = value != "" && validToken(value)
	case seenScheme:
		ok = value != ""
	case seenPath:
		ok = value == "*" || value != "" && value[0] == '/'
	case seenStatus:
		ok = len(value) == 3 && value[0] >= '1' && value[0] <= '9' && isDigit(value[1]) && isDigit(value[2])
	}
	if !ok {
		return "a pseudo-field has a value that is not allowed"
	}
	return ""
}

// complete says what is missing from a whole field section.
func (b *block) complete() string {
	if b.tooLong {
		return "" // not all of it was looked at
	}
	switch b.kind {
	case request:
		const plain = seenMethod | seenScheme | seenPath
		if b.fields.Get(":method") == "CONNECT" {
			if b.seen != seenMethod|seenAuthority || b.fields.Get(":authority") == "" {
				return "CONNECT takes :method and :authority"
			}
		} else if b.seen&plain != plain {
			return "a request takes :method, :scheme and :path"
		}
		host, given := b.fields.Joined("host")
		if given && b.seen&seenAuthority != 0 && !strings.EqualFold(host, b.fields.Get(":authority")) {
			// Whoever decides by one would forward by the other.
			return "host is not :authority"
		}
	case response:
		if b.seen != seenStatus {
			return "a response takes :status"
		}
	}
	return ""
}

// joinCookies puts the crumbs of a cookie together, as whoever passes the
// request on to anything but HTTP/2 has to (RFC 9113, section 8.2.3).
func (b *block) joinCookies() {
	if b.cookies < 2 {
		return
	}
	var all strings.Builder
	for _, f := range b.fields {
		if f.Name != "cookie" {
			continue
		}
		if all.Len() > 0 {
			all.WriteString("; ")
		}
		all.WriteString(f.Value)
	}
	b.fields = b.fields.Set("cookie", all.String())
}

// parseLength reads a content-length: digits, and no more than an int64 holds.
func parseLength(s string) (n int64, ok bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	for i := range len(s) {
		if !isDigit(s[i]) {
			return 0, false
		}
		n = 10*n + int64(s[i]-'0')
	}
	return n, true
}

func isDigit(b byte) bool { return b >= '0' && b <= '9' }

// validName reports whether s is a field name of HTTP/2: a token without upper
// case.
func validName(s string) bool {
	for i := range len(s) {
		if s[i] >= 'A' && s[i] <= 'Z' {
			return false
		}
	}
	return s != "" && validToken(s)
}

// validToken reports whether s has token characters only (RFC 9110, section
// 5.6.2).
func validToken(s string) bool {
	for i := range len(s) {
		if !tokens[s[i]] {
			return false
		}
	}
	return true
}

var tokens = func() (t [256]bool) {
	for c := '0'; c <= 'z'; c++ {
		t[c] = c <= '9' || c >= 'a' || c >= 'A' && c <= 'Z'
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] = true
	}
	return t
}()

// validValue reports whether s is a field value: no control characters, no
// space at either end.
func validValue(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' && s[i] != '\t' || s[i] == 0x7f {
			return false
		}
	}
	return s == "" || !isSpace(s[0]) && !isSpace(s[len(s)-1])
}

func isSpace(b byte) bool { return b == ' ' || b == '\t' }

// listSize is the size of a field section as RFC 9113, section 6.5.2, counts.
func listSize(f l7.Fields) (n int64) {
	for i := range f {
		n += int64(len(f[i].Name) + len(f[i].Value) + 32)
	}
	return n
}
