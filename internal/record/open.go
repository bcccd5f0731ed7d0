package record

import (
	"crypto/tls"
	"io"
	"math"
	"net"
)

// Whole reports whether Open has something to say about p: it begins with a
// whole record, or with a header that is refused.
func (c *Conn) Whole(p []byte) bool {
	n, bad := measure(p)
	return bad != 0 || n > 0 && len(p) >= n
}

// measure returns how long the record at the beginning of p is, or 0 when p does
// not tell yet, and the alert with which its header is refused. The version is
// not looked at (section 5.1), but it is authenticated.
func measure(p []byte) (n int, bad tls.AlertError) {
	if len(p) < headerSize {
		return 0, 0
	}
	n = int(p[3])<<8 | int(p[4])
	switch {
	case p[0] != typeContent:
		return 0, alertUnexpected
	case n > maxCiphertext:
		return 0, alertRecordOverflow
	case n < tagSize:
		return 0, alertBadRecordMAC
	}
	return headerSize + n, 0
}

// Open opens the record at the beginning of src. The content goes to the front
// of dst, which has room for Room bytes, or is src[5:] exactly: then the record
// is opened in place. Open returns how long the content is and how much of src
// the record was: 0 when it is not whole. A record without content is none, and
// what it asked for is done; see Owes.
//
// The error is io.EOF after the peer's close_notify. Every other is the end of
// both directions. It says "remote error" or "local error" as crypto/tls does,
// and is returned ever after.
func (c *Conn) Open(dst, src []byte) (n, used int, err error) {
	if c.openErr != nil {
		return 0, 0, c.openErr
	}
	used, bad := measure(src)
	switch {
	case bad != 0:
		return 0, 0, c.refuse(bad)
	case used == 0 || used > len(src):
		return 0, 0, nil
	case c.in.seq == math.MaxUint64:
		return 0, 0, c.refuse(alertInternal)
	}
	dst = dst[:used-headerSize-tagSize] // or the cipher would allocate
	p, err := c.in.aead.Open(dst[:0], c.in.next(), src[headerSize:used], src[:headerSize])
	if err != nil {
		return 0, 0, c.refuse(alertBadRecordMAC)
	}
	if len(p) > MaxContent+1 {
		return 0, 0, c.refuse(alertRecordOverflow)
	}
	n = len(p) - 1
	for n >= 0 && p[n] == 0 { // padding
		n--
	}
	if n < 0 {
		return 0, 0, c.refuse(alertUnexpected)
	}
	if typ := p[n]; typ != typeContent || n == 0 || c.got > 0 || c.skip > 0 {
		if err := c.control(typ, p[:n]); err != nil {
			return 0, 0, err
		}
		n = 0
	} else {
		c.barren = 0
	}
	if c.in.seq >= c.life && !c.asked {
		c.update, c.ask, c.asked = true, true, true
	}
	return n, used, nil
}

// control takes a record that brings no content.
func (c *Conn) control(typ byte, p []byte) error {
	if c.barren++; c.barren > maxBarren {
		return c.refuse(alertUnexpected)
	}
	switch {
	case typ == typeHandshake && len(p) > 0:
		return c.handshake(p)
	case c.got > 0 || c.skip > 0: // in the middle of a message: section 5.1
	case typ == typeContent:
		return nil // empty, as anybody may send
	case typ == typeAlert && len(p) == 2:
		return c.alerted(tls.AlertError(p[1]))
	}
	return c.refuse(alertUnexpected)
}

// alerted takes an alert. Its level says nothing (section 6).
func (c *Conn) alerted(a tls.AlertError) error {
	switch a {
	case alertUserCanceled: // a close_notify follows
		return nil
	case alertCloseNotify:
		c.openErr = io.EOF
	default:
		c.openErr = &net.OpError{Op: "remote error", Err: a}
		c.sealErr = c.openErr // section 6.2: nothing more is sent either
	}
	return c.openErr
}

// handshake takes a piece of what follows a handshake: messages, or parts of
// them, of which nothing but the first five bytes is of interest.
func (c *Conn) handshake(p []byte) error {
	for len(p) > 0 {
		if c.skip > 0 {
			n := min(c.skip, len(p))
			c.skip -= n
			p = p[n:]
			continue
		}
		c.head[c.got] = p[0]
		c.got++
		p = p[1:]
		size := int(c.head[1])<<16 | int(c.head[2])<<8 | int(c.head[3])
		switch {
		case c.got == 4 && c.head[0] == msgNewSessionTicket && !c.server:
			if size == 0 || size > maxTicket {
				return c.refuse(alertDecode)
			}
			c.got, c.skip = 0, size
		case c.got == 4 && c.head[0] != msgKeyUpdate:
			return c.refuse(alertUnexpected)
		case c.got == 4 && size != 1:
			return c.refuse(alertDecode)
		case c.got == 5:
			c.got = 0
			return c.keyUpdate(c.head[4], len(p) == 0)
		}
	}
	return nil
}

// keyUpdate goes on to the peer's next key, and owes it one of ours if it has
// asked. The message must be the last under the old key (section 5.1).
func (c *Conn) keyUpdate(request byte, last bool) error {
	if c.hurried++; c.in.seq >= calmRecords {
		c.hurried = 0
	}
	switch {
	case request > 1:
		return c.refuse(alertIllegal)
	case !last || c.hurried > maxHurried:
		return c.refuse(alertUnexpected)
	}
	c.in.update(&c.suite)
	c.asked = false
	if request == 1 {
		c.update = true // once, however often it was asked: section 4.6.3
	}
	return nil
}
