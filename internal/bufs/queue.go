package bufs

// A Queue is a first-in first-out run of bytes in pooled buffers. The zero
// Queue is empty and holds nothing; a Queue that is emptied holds nothing
// again. It has one owner, who calls Clear before dropping it.
//
// Every tunnel has several, nearly always empty, so a Queue is two words: its
// buffers are a ring, of which it knows the last.
type Queue struct {
	last *Buffer // its next is the first
	n    int
}

// Len returns how many bytes wait.
func (q *Queue) Len() int { return q.n }

// Append copies p to the end.
func (q *Queue) Append(p []byte) {
	q.n += len(p)
	for len(p) > 0 {
		if q.last == nil || len(q.last.B) == cap(q.last.B) {
			q.grow(len(p))
		}
		b := q.last
		k := min(len(p), cap(b.B)-len(b.B))
		b.B = append(b.B, p[:k]...)
		p = p[k:]
	}
}

// grow adds a buffer for n bytes more, or for the first of them. A second one
// means that this is no small thing.
func (q *Queue) grow(n int) {
	size := Large
	switch {
	case q.last == nil && n <= tiny:
		size = tiny
	case q.last == nil && n <= Small, q.last != nil && len(q.last.whole) == tiny && n <= Small:
		size = Small
	}
	b := get(size)
	if q.last == nil {
		b.next = b
	} else {
		b.next, q.last.next = q.last.next, b
	}
	q.last = b
}

// Front returns the first run of contiguous bytes, nil when empty. It is valid
// until the next call that changes the queue.
func (q *Queue) Front() []byte {
	if q.last == nil {
		return nil
	}
	return q.last.next.B
}

// Consume drops the first n bytes.
func (q *Queue) Consume(n int) {
	q.n -= n
	for n > 0 {
		b := q.last.next
		if n < len(b.B) {
			b.B = b.B[n:]
			return
		}
		n -= len(b.B)
		q.shift()
	}
}

// shift frees the first buffer.
func (q *Queue) shift() {
	b := q.last.next
	if b == q.last {
		q.last = nil
	} else {
		q.last.next = b.next
	}
	b.Free()
}

// Clear drops everything.
func (q *Queue) Clear() {
	for q.last != nil {
		q.shift()
	}
	q.n = 0
}

// Each calls f with every run of bytes, in order, and consumes nothing.
func (q *Queue) Each(f func(p []byte)) {
	if q.last == nil {
		return
	}
	for b := q.last.next; ; b = b.next {
		f(b.B)
		if b == q.last {
			return
		}
	}
}
