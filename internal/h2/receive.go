package h2

import (
	"encoding/binary"
	"errors"
	"io"
	"strings"

	"golang.org/x/net/http2"
)

// A payload is a DATA frame of which some is still to come.
type payload struct {
	s      *Stream // nil: its bytes are dropped
	left   int     // octets of the frame to come
	pad    int     // how many of them are padding
	padded bool    // the next octet is the padding's length
	end    bool    // END_STREAM
	active bool
}

// Receive takes bytes as they arrived, whole frames or parts of them, and tells
// the Handler what they meant. An error is a connection error: a GOAWAY is in
// the output, and the caller writes that and closes.
func (c *Conn) Receive(p []byte) error {
	if c.err != nil {
		return c.err
	}
	c.heard = true
	for len(p) > 0 {
		var err error
		switch {
		case c.preface != "":
			p, err = c.takePreface(p)
		case c.skip > 0:
			n := min(c.skip, len(p))
			c.skip -= n
			p = p[n:]
		case c.data.active:
			p, err = c.takeData(p)
		default:
			p, err = c.takeFrame(p)
		}
		if err != nil {
			err = c.fail(err)
			c.tell()
			return err
		}
	}
	c.tell()
	return nil
}

func (c *Conn) takePreface(p []byte) ([]byte, error) {
	n := min(len(c.preface), len(p))
	if string(p[:n]) != c.preface[:n] {
		c.preface = ""
		return nil, broken(CodeProtocol, "the client does not speak HTTP/2")
	}
	c.preface = c.preface[n:]
	return p[n:], nil
}

// A header is the nine octets before every frame.
type header struct {
	length     int
	typ, flags byte
	id         uint32
}

func parseHeader(b []byte) header {
	return header{
		length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		typ:    b[3],
		flags:  b[4],
		id:     binary.BigEndian.Uint32(b[5:]) & maxStreamID,
	}
}

// takeFrame takes as much of a frame as p holds. One that is whole in p is
// handled where it lies; a part is carried over to the next call.
func (c *Conn) takeFrame(p []byte) ([]byte, error) {
	if len(c.carry) == 0 && len(p) >= headerLen {
		h := parseHeader(p)
		whole, err := c.begin(h)
		if err != nil || !whole {
			return p[headerLen:], err
		}
		n := headerLen + h.length
		if len(p) >= n {
			return p[n:], c.frame(h, p[:n])
		}
		c.carry, c.need = append(c.carry, p...), n
		return nil, nil
	}
	if c.need == 0 {
		n := min(headerLen-len(c.carry), len(p))
		c.carry = append(c.carry, p[:n]...)
		p = p[n:]
		if len(c.carry) < headerLen {
			return p, nil
		}
		h := parseHeader(c.carry)
		whole, err := c.begin(h)
		if err != nil || !whole {
			c.carry = c.carry[:0]
			return p, err
		}
		c.need = headerLen + h.length
	}
	n := min(c.need-len(c.carry), len(p))
	c.carry = append(c.carry, p[:n]...)
	p = p[n:]
	if len(c.carry) < c.need {
		return p, nil
	}
	whole := c.carry
	c.carry, c.need = nil, 0
	err := c.frame(parseHeader(whole), whole)
	if cap(whole) <= 1<<10 && c.err == nil {
		c.carry = whole[:0]
	}
	return p, err
}

// exactly is the length of the frames that have only one.
var exactly = [...]int{typePriority: 5, typeReset: 4, typePing: 8, typeWindowUpdate: 4}

// begin judges a frame by its header, before any of its payload is waited for.
// It reports whether the frame has to be whole to be handled; DATA and frames
// to be ignored are taken as they come.
func (c *Conn) begin(h header) (whole bool, err error) {
	switch {
	case h.length > int(c.o.MaxFrame):
		return false, broken(CodeFrameSize, "a frame is longer than SETTINGS_MAX_FRAME_SIZE")
	case !c.greeted && (h.typ != typeSettings || h.flags&flagAck != 0):
		return false, broken(CodeProtocol, "the first frame is not SETTINGS")
	case c.block.open != (h.typ == typeContinuation), c.block.open && h.id != c.block.id:
		return false, broken(CodeProtocol, "a header block is not contiguous")
	}
	switch h.typ {
	case typeData:
		return false, c.beginData(h)
	case typeHeaders, typeContinuation:
		// Padding and priority come on top of what is decoded.
		if c.block.size+h.length > c.o.maxBlock()+1+255+5 {
			return false, broken(CodeEnhanceYourCalm, "a header block is too long")
		}
	case typePriority, typeReset, typePing, typeWindowUpdate:
		if h.length != exactly[h.typ] {
			return false, broken(CodeFrameSize, "a frame of fixed length has another")
		}
	case typeSettings, typeGoAway:
		if h.length > maxControl {
			return false, broken(CodeEnhanceYourCalm, "a control frame is too long")
		}
	case typePushPromise:
		return false, broken(CodeProtocol, "push is disabled")
	default:
		c.skip = h.length
		return false, c.idled(1)
	}
	return true, nil
}

// frame handles a whole frame that is not DATA.
func (c *Conn) frame(h header, b []byte) error {
	if h.typ == typeWindowUpdate {
		// Past the Framer, which would allocate: one comes for every half window
		// that we send.
		return c.windowUpdate(h.id, binary.BigEndian.Uint32(b[headerLen:])&maxWindow)
	}
	if h.length > maxControl {
		defer c.newFramer() // it would keep a buffer of that length
	}
	c.src.Reset(b)
	f, err := c.framer.ReadFrame()
	if err != nil {
		return &ConnError{Code: codeOf(err), Cause: c.framer.ErrorDetail()}
	}
	switch f := f.(type) {
	case *http2.HeadersFrame:
		return c.headersFrame(f)
	case *http2.ContinuationFrame:
		return c.fragment(f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.SettingsFrame:
		return c.settingsFrame(f)
	case *http2.RSTStreamFrame:
		return c.resetFrame(f.StreamID, ErrCode(f.ErrCode))
	case *http2.PriorityFrame:
		return c.priorityFrame(f)
	case *http2.PingFrame:
		return c.pingFrame(f)
	case *http2.GoAwayFrame:
		return c.goAwayFrame(f)
	}
	return nil
}

// newFramer sets up x/net's parser. The order of frames is checked in begin, as
// not all of them come by here.
func (c *Conn) newFramer() {
	c.framer = http2.NewFramer(io.Discard, &c.src)
	c.framer.AllowIllegalReads = true
}

// codeOf returns the code of an error of x/net's. Whatever is wrong with a frame
// that it parsed is a connection error to us: HEADERS that cannot be read leave
// the compression state unknown.
func codeOf(err error) ErrCode {
	var conn http2.ConnectionError
	var stream http2.StreamError
	switch {
	case errors.As(err, &conn):
		return ErrCode(conn)
	case errors.As(err, &stream):
		return ErrCode(stream.Code)
	}
	return CodeFrameSize // too short for its own flags
}

func (c *Conn) lookup(id uint32) *Stream {
	if s := c.latest; s != nil && s.id == id {
		return s
	}
	s := c.streams[id]
	if s != nil {
		c.latest = s
	}
	return s
}

// idle reports whether the stream has never been opened.
func (c *Conn) idle(id uint32) bool {
	if id&1 == 0 {
		return true // we do not push, and no server may push to us
	}
	if c.role == Server {
		return id > c.peerID
	}
	return id >= c.nextID
}

// beginData accounts for a DATA frame and checks it against its stream. The
// connection is credited at once, whatever becomes of the bytes.
func (c *Conn) beginData(h header) error {
	if !c.inflow.receive(uint32(h.length)) {
		return broken(CodeFlowControl, "the connection's window is exceeded")
	}
	if n := c.inflow.credit(h.length, c.o.ConnWindow); n > 0 {
		c.out.word(typeWindowUpdate, 0, n)
		c.wake()
	}
	if c.idle(h.id) {
		return broken(CodeProtocol, "DATA on an idle stream")
	}
	d := &c.data
	*d = payload{left: h.length, end: h.flags&flagEndStream != 0, padded: h.flags&flagPadded != 0, active: true}
	if d.padded && h.length == 0 {
		return broken(CodeFrameSize, "padded DATA has no room for the length of its padding")
	}
	s := c.lookup(h.id)
	switch {
	case s == nil:
		if !c.resetIDs.has(h.id) {
			if err := c.refuse(h.id, CodeStreamClosed); err != nil {
				return err
			}
		}
	case s.inEnd:
		if err := c.abort(s, CodeStreamClosed, "DATA after END_STREAM"); err != nil {
			return err
		}
	case s.c.role == Client && !s.answer:
		if err := c.abort(s, CodeProtocol, "DATA before the response"); err != nil {
			return err
		}
	case !s.in.receive(uint32(h.length)):
		if err := c.abort(s, CodeFlowControl, "the stream's window is exceeded"); err != nil {
			return err
		}
	default:
		d.s = s
	}
	if d.padded {
		return nil // how much is content is not known yet
	}
	return c.beginContent()
}

// beginContent is called when the rest of the DATA frame is known to be content
// and d.pad octets of padding. A content-length that is contradicted makes the
// message malformed, before its receiver has seen the end of it.
func (c *Conn) beginContent() error {
	d := &c.data
	n := d.left - d.pad
	if s := d.s; s != nil && s.length >= 0 {
		s.length -= int64(n)
		if s.length < 0 || d.end && s.length > 0 {
			d.s = nil
			if err := c.abort(s, CodeProtocol, "content-length does not match the content"); err != nil {
				return err
			}
		}
	}
	if n > 0 {
		return nil
	}
	if !d.end {
		if err := c.idled(1); err != nil {
			return err
		}
	}
	c.deliver(nil)
	return nil
}

// takeData takes as much of a DATA frame as p holds.
func (c *Conn) takeData(p []byte) ([]byte, error) {
	d := &c.data
	if d.padded {
		d.padded = false
		d.left--
		d.pad = int(p[0])
		if d.pad > d.left {
			return nil, broken(CodeProtocol, "padding is longer than its frame")
		}
		if d.s != nil {
			d.s.Credit(1 + d.pad) // nobody else will
		}
		return p[1:], c.beginContent()
	}
	if n := min(d.left-d.pad, len(p)); n > 0 {
		d.left -= n
		c.deliver(p[:n])
		p = p[n:]
	}
	n := min(d.left, len(p))
	d.left -= n
	if d.left == 0 {
		d.active = false
	}
	return p[n:], nil
}

// deliver hands out a piece of content, with the end of the stream when it is
// the last.
func (c *Conn) deliver(p []byte) {
	d := &c.data
	last := d.left == d.pad
	if d.left == 0 {
		d.active = false
	}
	s := d.s
	if s == nil || s.dead {
		return
	}
	end := last && d.end
	if len(p) == 0 && !end {
		return
	}
	s.inEnd = s.inEnd || end
	c.h.Data(s, p, end)
	if end {
		s.finish()
	}
}

func (c *Conn) windowUpdate(id, n uint32) error {
	if err := c.idled(1); err != nil {
		return err
	}
	if id == 0 {
		if n == 0 {
			return broken(CodeProtocol, "WINDOW_UPDATE by 0")
		}
		if !c.outflow.grow(int64(n)) {
			return broken(CodeFlowControl, "the connection's window overflows")
		}
		if c.ready.first != nil {
			c.wake()
		}
		return nil
	}
	if c.idle(id) {
		return broken(CodeProtocol, "WINDOW_UPDATE on an idle stream")
	}
	s := c.lookup(id)
	switch {
	case s == nil: // it has ended meanwhile
		return nil
	case n == 0:
		return c.abort(s, CodeProtocol, "WINDOW_UPDATE by 0")
	case !s.out.grow(int64(n)):
		return c.abort(s, CodeFlowControl, "the stream's window overflows")
	}
	s.stalled = c.at
	s.schedule()
	return nil
}

func (c *Conn) resetFrame(id uint32, code ErrCode) error {
	if c.idle(id) {
		return broken(CodeProtocol, "RST_STREAM on an idle stream")
	}
	s := c.lookup(id)
	if s == nil {
		return c.idled(1)
	}
	c.endedIDs.add(id, rememberEnded)
	s.drop()
	c.h.Reset(s, &StreamError{Code: code, Remote: true})
	if s.served {
		return c.idled(1)
	}
	return c.canceled()
}

// priorityFrame ignores a PRIORITY, unless it is one that no peer may send.
func (c *Conn) priorityFrame(f *http2.PriorityFrame) error {
	if f.StreamDep == f.StreamID {
		if s := c.lookup(f.StreamID); s != nil {
			return c.abort(s, CodeProtocol, "a stream depends on itself")
		}
		return broken(CodeProtocol, "a stream depends on itself")
	}
	return c.idled(1)
}

func (c *Conn) pingFrame(f *http2.PingFrame) error {
	if f.IsAck() {
		if f.Data == pingDrain && c.drain == announced {
			c.finishDrain()
		}
		return c.idled(1)
	}
	c.out.ping(flagAck, f.Data)
	c.wake()
	if err := c.replied(); err != nil {
		return err
	}
	return c.idled(1)
}

// goAwayFrame gives up the streams that the peer will not serve. The others run
// on, even after an error: it is for the peer to close.
func (c *Conn) goAwayFrame(f *http2.GoAwayFrame) error {
	e := &ConnError{Code: ErrCode(f.ErrCode), Remote: true}
	if d := f.DebugData(); len(d) > 0 {
		e.Cause = errors.New("GOAWAY: " + strings.ToValidUTF8(string(d[:min(len(d), 128)]), "?"))
	}
	c.gone = e
	c.change()
	if err := c.idled(1); err != nil || c.role == Server {
		return err
	}
	for _, s := range c.ordered() {
		if s.id > f.LastStreamID && !s.dead {
			s.drop()
			c.h.Reset(s, &StreamError{Code: CodeRefusedStream, Remote: true, Cause: e})
		}
	}
	return nil
}

// putReset sends RST_STREAM, and remembers that frames may still come.
func (c *Conn) putReset(id uint32, code ErrCode) {
	c.out.word(typeReset, id, uint32(code))
	c.resetIDs.add(id, rememberReset)
	c.wake()
}

// refuse resets a stream that the Handler does not know.
func (c *Conn) refuse(id uint32, code ErrCode) error {
	c.putReset(id, code)
	return c.replied()
}

// abort resets a stream on which the peer has broken the rules. That costs the
// peer as much as a cancellation, or it would be a way around that limit.
func (c *Conn) abort(s *Stream, code ErrCode, reason string) error {
	c.putReset(s.id, code)
	s.drop()
	c.h.Reset(s, &StreamError{Code: code, Cause: errors.New(reason)})
	if err := c.replied(); err != nil {
		return err
	}
	return c.canceled()
}
