// Package l7 holds what HTTP/1.1 and HTTP/2 share: the heads of requests and
// responses and their fields.
//
// Strings in a head that a codec hands out may be views of its read buffer:
// they are valid during the call and no longer. Whoever must keep a head calls
// Clone.
package l7

import "strings"

// A Field is one header or trailer field. Name is lower case (RFC 9113, section
// 8.2.1); codecs for HTTP/1.1 fold it.
type Field struct{ Name, Value string }

// Fields is an ordered list of fields. It is a slice, not a map: requests carry
// a dozen or so, and a linear scan beats a hash and allocates nothing.
type Fields []Field

// Get returns the value of the first field called name, which is lower case,
// or "".
func (f Fields) Get(name string) string {
	for i := range f {
		if f[i].Name == name {
			return f[i].Value
		}
	}
	return ""
}

// Has reports whether there is a field called name, even an empty one.
func (f Fields) Has(name string) bool {
	for i := range f {
		if f[i].Name == name {
			return true
		}
	}
	return false
}

// Joined returns the values of every field called name joined by commas (RFC
// 9110, section 5.3; cookies, by semicolons: RFC 9113, section 8.2.3), and
// whether there was one. It allocates only when the field is repeated.
func (f Fields) Joined(name string) (value string, ok bool) {
	n, by := 0, ","
	if name == "cookie" {
		by = "; "
	}
	for i := range f {
		if f[i].Name != name {
			continue
		}
		if n++; n == 1 {
			value = f[i].Value
		} else {
			value += by + f[i].Value
		}
	}
	return value, n > 0
}

// Set returns f with its first field called name holding value and any other
// of that name removed; the field is appended when there was none.
func (f Fields) Set(name, value string) Fields {
	out, done := f[:0], false
	for i := range f {
		switch {
		case f[i].Name != name:
			out = append(out, f[i])
		case !done:
			out, done = append(out, Field{name, value}), true
		}
	}
	if !done {
		out = append(out, Field{name, value})
	}
	return out
}

// Del returns f without the fields called name.
func (f Fields) Del(name string) Fields {
	out := f[:0]
	for i := range f {
		if f[i].Name != name {
			out = append(out, f[i])
		}
	}
	return out
}

// A Request is the head of a request.
type Request struct {
	Method    string // as sent; "CONNECT" never reaches an exchange
	Scheme    string // "http" or "https"; of an HTTP/1.1 request, "http"
	Authority string // the Host field or :authority, with its port if it had one
	Path      string // origin form with query, or "*"
	Fields    Fields // without pseudo-fields and without Host
	Protocol  Protocol

	// Upgrade is the protocol an HTTP/1.1 client asks to switch to ("websocket"),
	// or "". The Connection and Upgrade fields themselves are not in Fields.
	Upgrade string

	// Length is the declared length of the content in bytes, or -1 when it is
	// delimited otherwise (chunked, HTTP/2 without content-length). 0 with
	// End set means there is none.
	Length int64
}

// A Response is the head of a response, final or informational (1xx).
type Response struct {
	Status int
	Fields Fields // without pseudo-fields

	// Upgrade is set on a 101.
	Upgrade string

	// Length is as in Request.
	Length int64
}

// A Protocol is the version of HTTP a message came in.
type Protocol uint8

// The protocols, as the access log spells them.
const (
	HTTP11 Protocol = iota
	HTTP10
	HTTP2
)

func (p Protocol) String() string {
	switch p {
	case HTTP10:
		return "HTTP/1.0"
	case HTTP2:
		return "HTTP/2"
	}
	return "HTTP/1.1"
}

// IsGRPC reports whether the request is a gRPC call (content-type
// application/grpc or application/grpc+…).
func (r *Request) IsGRPC() bool {
	ct := r.Fields.Get("content-type")
	rest, ok := strings.CutPrefix(ct, "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// PathOnly returns the path without its query.
func (r *Request) PathOnly() string {
	path, _, _ := strings.Cut(r.Path, "?")
	return path
}

// Clone returns a copy of r that owns its strings: they are carved from one
// allocation.
func (r *Request) Clone() *Request {
	c := *r
	k := keeper{}
	k.grow(len(r.Method) + len(r.Scheme) + len(r.Authority) + len(r.Path) + len(r.Upgrade) + r.Fields.size())
	c.Method, c.Scheme, c.Authority = k.keep(r.Method), k.keep(r.Scheme), k.keep(r.Authority)
	c.Path, c.Upgrade = k.keep(r.Path), k.keep(r.Upgrade)
	c.Fields = k.fields(r.Fields)
	return &c
}

// Clone returns a copy of f that owns its strings.
func (f Fields) Clone() Fields {
	k := keeper{}
	k.grow(f.size())
	return k.fields(f)
}

// Clone returns a copy of r that owns its strings.
func (r *Response) Clone() *Response {
	c := *r
	c.Fields = r.Fields.Clone()
	c.Upgrade = strings.Clone(r.Upgrade)
	return &c
}

func (f Fields) size() (n int) {
	for i := range f {
		n += len(f[i].Name) + len(f[i].Value)
	}
	return n
}

// A keeper carves copies of strings from one allocation.
type keeper struct{ b strings.Builder }

func (k *keeper) grow(n int) { k.b.Grow(n) }

func (k *keeper) keep(s string) string {
	i := k.b.Len()
	k.b.WriteString(s)
	return k.b.String()[i:]
}

func (k *keeper) fields(f Fields) Fields {
	if f == nil {
		return nil
	}
	out := make(Fields, len(f))
	for i := range f {
		out[i] = Field{k.keep(f[i].Name), k.keep(f[i].Value)}
	}
	return out
}
