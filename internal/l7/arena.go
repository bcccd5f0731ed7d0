package l7

import "unsafe"

// An Arena keeps copies of heads in one buffer that is used again and again, so
// that keeping a head past the call that lent it costs a copy and no
// allocation. What it hands out is valid until Reset. It has one owner.
type Arena struct {
	b      []byte
	fields []Field
}

// Reset forgets every copy. The strings handed out before must not be used
// again.
func (a *Arena) Reset() {
	if cap(a.b) > 16<<10 { // one huge head must not be paid for by every later one
		a.b = nil
	}
	clear(a.fields)
	a.b, a.fields = a.b[:0], a.fields[:0]
}

// String returns a copy of s.
func (a *Arena) String(s string) string {
	if s == "" {
		return ""
	}
	i := len(a.b)
	a.b = append(a.b, s...)
	return unsafe.String(&a.b[i], len(s))
}

// Bytes returns a copy of p as a string.
func (a *Arena) Bytes(p []byte) string {
	if len(p) == 0 {
		return ""
	}
	i := len(a.b)
	a.b = append(a.b, p...)
	return unsafe.String(&a.b[i], len(p))
}

// room is for how many more fields Fields leaves room.
const room = 8

// Fields returns a copy of f with room for a few more, which an append takes.
func (a *Arena) Fields(f Fields) Fields {
	i := len(a.fields)
	for _, field := range f {
		a.fields = append(a.fields, Field{a.String(field.Name), a.String(field.Value)})
	}
	n := len(a.fields)
	for range room {
		a.fields = append(a.fields, Field{})
	}
	return a.fields[i:n:len(a.fields)]
}

// Request returns a copy of r.
func (a *Arena) Request(r *Request) Request {
	if a.b == nil {
		a.begin(r)
	}
	c := *r
	c.Method, c.Scheme, c.Authority = a.String(r.Method), a.String(r.Scheme), a.String(r.Authority)
	c.Path, c.Upgrade = a.String(r.Path), a.String(r.Upgrade)
	c.Fields = a.Fields(r.Fields)
	return c
}

// begin makes an arena as large as r, and a little larger. Growing to it would
// leave as much again behind.
func (a *Arena) begin(r *Request) {
	const more = 128 // an id, a path that is rewritten
	n := len(r.Method) + len(r.Scheme) + len(r.Authority) + len(r.Path) + len(r.Upgrade)
	for i := range r.Fields {
		n += len(r.Fields[i].Name) + len(r.Fields[i].Value)
	}
	a.b = make([]byte, 0, n+more)
	a.fields = make([]Field, 0, len(r.Fields)+room)
}
