package record

import "slices"

// Seal appends to dst the records that carry p, after what the peer is owed. An
// error means that p is not in them: the connection has ended, or this direction
// of it; what the peer was owed is.
func (c *Conn) Seal(dst, p []byte) ([]byte, error) {
	dst = c.settle(dst)
	if c.sealErr != nil {
		return dst, c.sealErr
	}
	for len(p) > 0 {
		n := min(len(p), MaxContent)
		dst = c.seal(dst, typeContent, p[:n])
		p = p[n:]
		if c.out.seq >= c.life {
			c.update = true
			dst = c.settle(dst)
		}
	}
	return dst, nil
}

// Close appends a close_notify, unless it has been sent or an alert has ended
// the connection before. Nothing is sealed any more; the other direction is as
// it was.
func (c *Conn) Close(dst []byte) []byte {
	dst, err := c.Seal(dst, nil)
	if err != nil {
		return dst
	}
	c.sealErr = ErrEnded
	return c.seal(dst, typeAlert, []byte{1, byte(alertCloseNotify)})
}

// settle appends what the peer is owed.
func (c *Conn) settle(dst []byte) []byte {
	switch {
	case c.sealErr != nil:
	case c.alert != 0:
		dst = c.seal(dst, typeAlert, []byte{2, byte(c.alert)})
		c.sealErr = c.openErr
	case c.update:
		msg := []byte{msgKeyUpdate, 0, 0, 1, 0}
		if c.ask {
			msg[4] = 1
		}
		dst = c.seal(dst, typeHandshake, msg)
		c.out.update(&c.suite)
		c.update, c.ask = false, false
	}
	return dst
}

// seal appends one record. The content is copied, once: to be sealed from where
// it lies its type would have to be written behind it, where something else may
// lie. That copy is a twentieth of the sealing.
func (c *Conn) seal(dst []byte, typ byte, p []byte) []byte {
	at := len(dst)
	size := len(p) + 1 + tagSize
	dst = slices.Grow(dst, headerSize+size)
	dst = append(dst, typeContent, 3, 3, byte(size>>8), byte(size))
	dst = append(append(dst, p...), typ)
	head, inner := dst[at:at+headerSize], dst[at+headerSize:]
	return c.out.aead.Seal(dst[:at+headerSize], c.out.next(), inner, head)
}
