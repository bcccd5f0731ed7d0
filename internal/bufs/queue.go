package bufs

// A Queue is a first-in first-out run of bytes in pooled buffers. The zero
// Queue is empty and holds nothing; a Queue that is emptied holds nothing
// again. It has one owner, who calls Clear before dropping it.
type Queue struct {
	bufs []*Buffer
	off  int // bytes of bufs[0] already consumed
	n    int
}

// Len returns how many bytes wait.
func (q *Queue) Len() int { return q.n }

// Append copies p to the end.
func (q *Queue) Append(p []byte) {
	q.n += len(p)
	for len(p) > 0 {
		var last *Buffer
		if len(q.bufs) > 0 {
			last = q.bufs[len(q.bufs)-1]
		}
		if last == nil || len(last.B) == cap(last.B) {
			want := len(p)
			if last != nil {
				want = Large // a second buffer means that it is not a small thing
			}
			last = Get(want)
			q.bufs = append(q.bufs, last)
		}
		k := min(len(p), cap(last.B)-len(last.B))
		last.B = append(last.B, p[:k]...)
		p = p[k:]
	}
}

// Front returns the first run of contiguous bytes, nil when empty. It is valid
// until the next call that changes the queue.
func (q *Queue) Front() []byte {
	if q.n == 0 {
		return nil
	}
	return q.bufs[0].B[q.off:]
}

// Consume drops the first n bytes.
func (q *Queue) Consume(n int) {
	q.n -= n
	for n > 0 {
		b := q.bufs[0]
		left := len(b.B) - q.off
		if n < left {
			q.off += n
			return
		}
		n -= left
		q.off = 0
		b.Free()
		copy(q.bufs, q.bufs[1:])
		q.bufs[len(q.bufs)-1] = nil
		q.bufs = q.bufs[:len(q.bufs)-1]
	}
	if q.n == 0 {
		q.Clear()
	}
}

// Clear drops everything.
func (q *Queue) Clear() {
	for i, b := range q.bufs {
		b.Free()
		q.bufs[i] = nil
	}
	if cap(q.bufs) > 64 {
		q.bufs = nil
	}
	q.bufs, q.off, q.n = q.bufs[:0], 0, 0
}

// Each calls f with every run of bytes, in order, and consumes nothing.
func (q *Queue) Each(f func(p []byte)) {
	for i, b := range q.bufs {
		if i == 0 {
			f(b.B[q.off:])
		} else {
			f(b.B)
		}
	}
}
