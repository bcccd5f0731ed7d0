package h1

import (
	"bytes"

	"github.com/waystone-mesh/waystone/internal/bufs"
)

// A scanner reads one head from what may be many pieces. It holds memory only
// while it has a piece.
type scanner struct{ part *head }

func (s *scanner) drop() {
	if s.part != nil {
		s.part.release()
		s.part = nil
	}
}

// feed reads from p and returns how much of it was used. When the head is whole
// it returns it, to be parsed from b and then released.
func (s *scanner) feed(k kind, p []byte, l *Limits) (h *head, b []byte, used int, err *Error) {
	if h = s.part; h == nil {
		h = newHead(k)
		n, err := h.scan(p, l)
		switch {
		case err != nil:
			h.release()
			return nil, nil, len(p), err
		case n > 0:
			return h, p[:n], n, nil
		}
		h.gather(p)
		s.part = h
		return nil, nil, len(p), nil
	}
	had := len(h.gathered())
	h.gather(p[:min(len(p), l.Head-had)])
	n, err := h.scan(h.gathered(), l)
	switch {
	case err != nil:
		s.drop()
		return nil, nil, len(p), err
	case n > 0:
		s.part = nil
		return h, h.gathered()[:n], n - had, nil
	}
	return nil, nil, len(p), nil
}

func (h *head) gathered() []byte {
	if h.big != nil {
		return h.big
	}
	if h.buf != nil {
		return h.buf.B
	}
	return nil
}

func (h *head) gather(p []byte) {
	n := len(h.gathered()) + len(p)
	switch {
	case h.big != nil:
		h.big = append(h.big, p...)
	case n > bufs.Large:
		h.big = append(append(make([]byte, 0, 2*n), h.gathered()...), p...)
		if h.buf != nil {
			h.buf.Free()
			h.buf = nil
		}
	case h.buf == nil:
		h.buf = bufs.Get(n)
		h.buf.B = append(h.buf.B, p...)
	case n > cap(h.buf.B):
		larger := bufs.Get(n)
		larger.B = append(append(larger.B, h.buf.B...), p...)
		h.buf.Free()
		h.buf = larger
	default:
		h.buf.B = append(h.buf.B, p...)
	}
}

// scan looks for the line ends in b, from where it left off. It returns the
// length of the block, with the empty line that ends it, or 0. Faults are found
// in the order of the bytes, so that it does not matter in what pieces they
// came.
func (h *head) scan(b []byte, l *Limits) (int, *Error) {
	for {
		i := bytes.IndexByte(b[h.seen:min(len(b), l.Head)], '\n')
		if i < 0 {
			h.seen = len(b)
			if len(b) < l.Head {
				return 0, nil
			}
			if h.kind == request && len(h.ends) == 0 {
				return 0, errTarget
			}
			return 0, errHead
		}
		end := h.seen + i + 1
		if end-2 < h.line || b[end-2] != '\r' {
			return 0, errBareLF
		}
		empty := end-2 == h.line
		h.seen, h.line = end, end
		if empty && (h.kind != request || len(h.ends) > 0) {
			return end, nil
		}
		if empty {
			// RFC 9112, section 2.2: at least one empty line before the request
			// line is to be ignored; we ignore exactly one.
			if h.blank {
				return 0, errBlank
			}
			h.blank = true
			continue
		}
		most := l.Fields + 1 // with the first line
		if h.kind == trailers {
			most--
		}
		if len(h.ends) == most {
			return 0, errFields
		}
		h.ends = append(h.ends, int32(end))
	}
}

// first returns the first line and where the next one starts.
func (h *head) first(b []byte) ([]byte, int) {
	if len(h.ends) == 0 {
		return nil, 0
	}
	start, end := 0, int(h.ends[0])
	if h.blank {
		start = 2
	}
	return b[start : end-2], end
}
