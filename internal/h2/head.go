package h2

import (
	"strconv"

	"github.com/waystone-mesh/waystone/internal/l7"
)

// ReadRequest reads the head of a request from fields that begin with the
// pseudo-fields, as a Handler is given them; end says that there is no content.
// r's Fields are used again, and its strings are those of f. A request without
// :authority has that of its host field (RFC 9113, section 8.3.1).
func ReadRequest(r *l7.Request, f l7.Fields, end bool) {
	*r = l7.Request{Protocol: l7.HTTP2, Length: -1, Fields: r.Fields[:0]}
	if end {
		r.Length = 0
	}
	host := ""
	for i := range f {
		switch name := f[i].Name; name {
		case ":method":
			r.Method = f[i].Value
		case ":scheme":
			r.Scheme = f[i].Value
		case ":authority":
			r.Authority = f[i].Value
		case ":path":
			r.Path = f[i].Value
		case "host":
			host = f[i].Value
		case "content-length":
			if n, err := strconv.ParseInt(f[i].Value, 10, 64); err == nil {
				r.Length = n
			}
			r.Fields = append(r.Fields, f[i])
		default:
			r.Fields = append(r.Fields, f[i])
		}
	}
	if r.Authority == "" {
		r.Authority = host
	}
}

// AppendRequest appends the fields of r's head to f, pseudo-fields first. A
// request without a scheme has http. content-length is r.Length, if there is any.
func AppendRequest(f l7.Fields, r *l7.Request) l7.Fields {
	scheme := r.Scheme
	if scheme == "" {
		scheme = "http"
	}
	f = append(f,
		l7.Field{Name: ":method", Value: r.Method},
		l7.Field{Name: ":scheme", Value: scheme},
		l7.Field{Name: ":path", Value: r.Path})
	if r.Authority != "" {
		f = append(f, l7.Field{Name: ":authority", Value: r.Authority})
	}
	f = appendWithoutLength(f, r.Fields)
	if r.Length > 0 {
		f = append(f, lengthField(r.Length))
	}
	return f
}

// ReadResponse reads the head of a response likewise.
func ReadResponse(r *l7.Response, f l7.Fields, end bool) {
	*r = l7.Response{Length: -1, Fields: r.Fields[:0]}
	for i := range f {
		switch f[i].Name {
		case ":status":
			r.Status, _ = strconv.Atoi(f[i].Value) // the connection has validated it
		case "content-length":
			if n, err := strconv.ParseInt(f[i].Value, 10, 64); err == nil && !end {
				r.Length = n
			}
			r.Fields = append(r.Fields, f[i])
		default:
			r.Fields = append(r.Fields, f[i])
		}
	}
	if end {
		r.Length = 0
	}
}

// AppendResponse appends the fields of r's head to f, :status first; end says that
// no content follows. content-length is r.Length, and of a response that may not
// have content, to HEAD or a 304, the field that r has.
func AppendResponse(f l7.Fields, r *l7.Response, end bool) l7.Fields {
	f = append(f, l7.Field{Name: ":status", Value: statusText(r.Status)})
	f = appendWithoutLength(f, r.Fields)
	switch {
	case r.Status < 200 || r.Status == 204: // RFC 9110, section 8.6
	case r.Length > 0 || r.Length == 0 && !end:
		f = append(f, lengthField(r.Length))
	case r.Fields.Has("content-length"):
		f = append(f, l7.Field{Name: "content-length", Value: r.Fields.Get("content-length")})
	}
	return f
}

func appendWithoutLength(f, fields l7.Fields) l7.Fields {
	for _, field := range fields {
		if field.Name != "content-length" {
			f = append(f, field)
		}
	}
	return f
}

func lengthField(n int64) l7.Field {
	return l7.Field{Name: "content-length", Value: strconv.FormatInt(n, 10)}
}

// statusText is a status as a field value; frequent ones allocate nothing.
func statusText(status int) string {
	switch status {
	case 200:
		return "200"
	case 204:
		return "204"
	case 304:
		return "304"
	case 403:
		return "403"
	case 404:
		return "404"
	}
	return strconv.Itoa(status)
}
