package h2

import (
	"bytes"
	"strings"

	"golang.org/x/net/http2/hpack"

	"github.com/waystone-mesh/waystone/internal/l7"
)

// An encoder compresses field sections. It decides what is worth a place in the
// table that both ends keep: hpack's Encoder indexes everything, and would keep
// strings that are only lent to us.
type encoder struct {
	buf  bytes.Buffer
	hp   *hpack.Encoder
	kept map[l7.Field]l7.Field // copies of what has been given to hp
	size int64                 // of kept, as the table counts
}

func (e *encoder) init() { e.hp = hpack.NewEncoder(&e.buf) }

// resize follows the peer's SETTINGS_HEADER_TABLE_SIZE, up to what we are ready
// to spend.
func (e *encoder) resize(n uint32) { e.hp.SetMaxDynamicTableSize(min(n, tableSize)) }

// maxKept is twice what the table holds: a field that is still in the table is
// seldom copied again.
const maxKept = 2 * tableSize

// encode returns f compressed, valid until the next call.
func (e *encoder) encode(f l7.Fields) []byte {
	e.buf.Reset()
	for i := range f {
		e.field(f[i])
	}
	return e.buf.Bytes()
}

func (e *encoder) field(f l7.Field) {
	// "Sensitive" fields are never indexed, here or further on. The Encoder does
	// not keep them.
	h := hpack.HeaderField{Name: f.Name, Value: f.Value, Sensitive: isSecret(f.Name) || varies(f)}
	if !h.Sensitive {
		k := e.keep(f)
		h.Name, h.Value = k.Name, k.Value
	}
	_ = e.hp.WriteField(h) // writing to a bytes.Buffer does not fail
}

// keep returns f with strings of our own.
func (e *encoder) keep(f l7.Field) l7.Field {
	if k, ok := e.kept[f]; ok {
		return k
	}
	if e.kept == nil {
		e.kept = make(map[l7.Field]l7.Field)
	}
	if e.size += listSize(l7.Fields{f}); e.size > maxKept {
		clear(e.kept)
		e.size = listSize(l7.Fields{f})
	}
	k := l7.Field{Name: strings.Clone(f.Name), Value: strings.Clone(f.Value)}
	e.kept[k] = k
	return k
}

// isSecret reports whether guessing the field must not be made easier by how
// well it compresses (RFC 7541, section 7.1.3): a connection carries the
// requests of many clients.
func isSecret(name string) bool {
	switch name {
	case "authorization", "proxy-authorization", "cookie", "set-cookie":
		return true
	}
	return false
}

// varies reports whether the field is unlikely to come again, and so would only
// push others out of the table.
func varies(f l7.Field) bool {
	switch f.Name {
	case ":path", "content-length", "date", "etag", "last-modified", "age", "location",
		"traceparent", "tracestate", "x-request-id", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid",
		"x-envoy-upstream-service-time", "x-forwarded-for", "forwarded", "if-none-match", "if-modified-since",
		"grpc-timeout", "content-range", "range":
		return f.Value != "/" // that one is in the static table
	}
	return len(f.Value) > 1<<10
}

// putHeaders sends a field section as HEADERS and, when it is longer than a
// frame may be, CONTINUATION.
func (c *Conn) putHeaders(id uint32, f l7.Fields, end bool) {
	p := c.enc.encode(f)
	typ, flags := byte(typeHeaders), byte(0)
	if end {
		flags = flagEndStream
	}
	for {
		n := min(len(p), int(c.peer.frame))
		if n == len(p) {
			flags |= flagEndHeaders
		}
		c.out.frame(typ, flags, id, n)
		c.out.b = append(c.out.b, p[:n]...)
		if p = p[n:]; len(p) == 0 {
			break
		}
		typ, flags = typeContinuation, 0
	}
	if c.enc.buf.Cap() > maxControl {
		c.enc.buf = bytes.Buffer{}
	}
}
