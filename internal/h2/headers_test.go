package h2

import (
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/l7"
)

func TestFieldSections(t *testing.T) {
	const get = ":method=GET :scheme=https :path=/ "
	for _, tt := range []struct {
		kind kind
		text string
		ok   bool
	}{
		{request, ":method=GET :scheme=https :path=/ :authority=a", true},
		{request, ":path=/ :method=GET :scheme=https", true},
		{request, ":method=OPTIONS :scheme=https :path=*", true},
		{request, ":method=GET :scheme=https :path=", false},
		{request, ":method=GET :scheme=https :path=x", false},
		{request, ":method=GET :scheme=https :path=http://a/", false},
		{request, ":method=GET :scheme=https", false},
		{request, ":method=GET :path=/", false},
		{request, ":scheme=https :path=/", false},
		{request, ":method= :scheme=https :path=/", false},
		{request, ":method=G(T :scheme=https :path=/", false},
		{request, `:method=GET :scheme=https :path="/ HTTP/1.1"`, false},
		{request, `:method=GET :scheme=https :path=/ :authority="a b"`, false},
		{request, ":method=GET :scheme=https :path=/\x00", false},
		{request, ":method=GET :scheme=https :path=/\x7f", false},
		{request, ":method=GET :scheme= :path=/", false},
		{request, get + ":path=/", false},
		{request, get + "a=b :authority=a", false},
		{request, get + ":status=200", false},
		{request, get + ":what=200", false},
		{request, get + ":=200", false},
		{request, "", false},
		{request, ":method=CONNECT :authority=a:1", true},
		{request, ":method=CONNECT :authority=a:1 x=y", true},
		{request, ":method=CONNECT :authority=a:1 :path=/", false},
		{request, ":method=CONNECT", false},

		{request, ":authority=a.b:1 " + get + "host=A.b:1", true},
		{request, ":authority=a " + get + "host=b", false},
		{request, ":authority=a " + get + "host=a host=a", false},
		{request, get + "host=b", true},

		{request, get + "a= b=c", true},
		{request, get + "A=b", false},
		{request, get + `"a b"=c`, false},
		{request, get + "a:b=c", false},
		{request, get + "\xff=c", false},
		{request, get + `a="b c	d"`, true},
		{request, get + `a=" b"`, false},
		{request, get + "a=\"b\t\"", false},
		{request, get + "a=b\rc", false},
		{request, get + "a=b\nc", false},
		{request, get + "a=b\x00", false},
		{request, get + "a=b\x1f", false},
		{request, get + "a=b\xff", true}, // obs-text
		{request, get + "te=trailers", true},
		{request, get + "te=gzip", false},
		{request, get + "connection=close", false},
		{request, get + "proxy-connection=close", false},
		{request, get + "keep-alive=1", false},
		{request, get + "transfer-encoding=chunked", false},
		{request, get + "upgrade=h2c", false},
		{request, get + "content-length=12", true},
		{request, get + "content-length=12 content-length=12", true},
		{request, get + "content-length=12 content-length=13", false},
		{request, get + "content-length=", false},
		{request, get + "content-length=-1", false},
		{request, get + "content-length=+1", false},
		{request, get + "content-length=1,1", false},
		{request, get + "content-length=0x1", false},
		{request, get + "content-length=9999999999999999999", false},

		{response, ":status=200", true},
		{response, ":status=999 a=b", true},
		{response, ":status=099", false},
		{response, ":status=20", false},
		{response, ":status=2000", false},
		{response, ":status=2x0", false},
		{response, ":status=", false},
		{response, ":status=200 :status=200", false},
		{response, ":method=GET", false},
		{response, "a=b", false},
		{response, "", false},

		{trailers, "", true},
		{trailers, "a=b", true},
		{trailers, ":status=200", false},
		{trailers, "connection=close", false},
	} {
		b := block{kind: tt.kind, length: -1}
		for _, f := range parseSection(tt.text) {
			if b.broken == "" {
				b.broken = b.check(f.Name, f.Value)
				b.fields = append(b.fields, f)
			}
		}
		if b.broken == "" {
			b.broken = b.complete()
		}
		if got := b.broken == ""; got != tt.ok {
			t.Errorf("%q: got %q", tt.text, b.broken)
		}
	}
}

func parseSection(text string) (f l7.Fields) {
	for _, w := range splitWords(text) {
		name, value, _ := strings.Cut(w, "=")
		f = append(f, l7.Field{Name: strings.Trim(name, `"`), Value: strings.Trim(value, `"`)})
	}
	return f
}
