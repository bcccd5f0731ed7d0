package bench

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"math/bits"
)

// WebSocket's opcodes (RFC 6455, section 5.2).
const (
	opContinuation = 0
	opText         = 1
	opBinary       = 2
	opClose        = 8
	opPing         = 9
	opPong         = 10
)

// maxControl is the most content of a control frame (RFC 6455, section 5.5).
const maxControl = 125

// webSocketAccept answers a Sec-WebSocket-Key (RFC 6455, section 4.2.2).
func webSocketAccept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// appendFrameHead appends the head of a frame that is a whole message. A
// client's has a mask, a server's none.
func appendFrameHead(b []byte, op byte, size int64, mask *[4]byte) []byte {
	const fin, masked = 0x80, 0x80
	b = append(b, fin|op, 0)
	at := len(b) - 1
	switch {
	case size <= maxControl:
		b[at] = byte(size)
	case size < 1<<16:
		b[at] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(size))
	default:
		b[at] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(size))
	}
	if mask != nil {
		b[at] |= masked
		b = append(b, mask[:]...)
	}
	return b
}

// applyMask masks p, or unmasks it, as bytes from offset on of a frame's content:
// eight at a time, for content of megabytes would else cost more than what is
// measured.
func applyMask(p []byte, mask [4]byte, offset int64) {
	k := bits.RotateLeft32(binary.LittleEndian.Uint32(mask[:]), -8*int(offset&3))
	k8 := uint64(k)<<32 | uint64(k)
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^k8)
		p = p[8:]
	}
	for i := range p {
		p[i] ^= byte(k >> (8 * (i & 3)))
	}
}

// A frameReader reads one end's frames.
type frameReader struct {
	masked bool // whether they have to be: a client's

	head   [14]byte
	have   int // of the head
	left   int64
	offset int64
	mask   [4]byte
	open   bool // in the middle of a message
}

// frames is told what a frameReader reads. Content of control frames comes in
// pieces too.
type frames interface {
	frame(op byte, p []byte)     // lent, and unmasked
	frameEnd(op byte, last bool) // last: of its message
}

// read takes bytes as they come; it unmasks them in scratch.
func (r *frameReader) read(p, scratch []byte, f frames) error {
	for len(p) > 0 {
		need := r.headSize()
		if r.have < need {
			n := copy(r.head[r.have:need], p)
			r.have += n
			p = p[n:]
			if r.have < need || r.headSize() > need {
				continue
			}
			if err := r.begin(); err != nil {
				return err
			}
		}
		n := int(min(r.left, int64(len(p))))
		if r.masked {
			n = min(n, len(scratch))
		}
		if n > 0 {
			b := p[:n]
			if r.masked {
				b = scratch[:copy(scratch, b)]
				applyMask(b, r.mask, r.offset)
			}
			r.left -= int64(n)
			r.offset += int64(n)
			p = p[n:]
			f.frame(r.op(), b)
		}
		if r.left == 0 {
			r.have = 0
			f.frameEnd(r.op(), r.fin())
		}
	}
	return nil
}

func (r *frameReader) op() byte  { return r.head[0] & 0x0f }
func (r *frameReader) fin() bool { return r.head[0]&0x80 != 0 }

// headSize returns how long the head is, as far as can be told.
func (r *frameReader) headSize() int {
	if r.have < 2 {
		return 2
	}
	n := 2
	switch r.head[1] & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if r.head[1]&0x80 != 0 {
		n += 4
	}
	return n
}

// begin reads a head that is whole.
func (r *frameReader) begin() error {
	b := r.head[2:r.have]
	switch n := r.head[1] & 0x7f; n {
	case 126:
		r.left, b = int64(binary.BigEndian.Uint16(b)), b[2:]
	case 127:
		r.left, b = int64(binary.BigEndian.Uint64(b)), b[8:]
	default:
		r.left = int64(n)
	}
	masked, control := r.head[1]&0x80 != 0, r.op()&8 != 0
	switch {
	case masked != r.masked, r.head[0]&0x70 != 0, r.left < 0 || r.left > maxContent:
		return fault(kindMalformed)
	case control && (r.left > maxControl || !r.fin()), !control && r.op() > opBinary:
		return fault(kindMalformed)
	case !control && (r.op() == opContinuation) != r.open:
		return fault(kindMalformed)
	case !control:
		r.open = !r.fin()
	}
	if masked {
		r.mask = [4]byte(b)
	}
	r.offset = 0
	return nil
}

// within reports whether r is in the middle of a message, or of a frame.
func (r *frameReader) within() bool { return r.have > 0 || r.open }
