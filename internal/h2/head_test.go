package h2

import (
	"slices"
	"testing"

	"github.com/waystone-mesh/waystone/internal/l7"
)

func TestRequestHeads(t *testing.T) {
	var r l7.Request
	ReadRequest(&r, l7.Fields{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "https"}, {Name: ":path", Value: "/a"}, {Name: "host", Value: "web"},
		{Name: "x", Value: "1"}, {Name: "content-length", Value: "5"},
	}, false)
	if r.Method != "POST" || r.Scheme != "https" || r.Path != "/a" || r.Authority != "web" || r.Length != 5 || r.Protocol != l7.HTTP2 {
		t.Errorf("read %+v", r)
	}
	want := l7.Fields{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "https"}, {Name: ":path", Value: "/a"}, {Name: ":authority", Value: "web"},
		{Name: "x", Value: "1"}, {Name: "content-length", Value: "5"},
	}
	if got := AppendRequest(nil, &r); !slices.Equal(got, want) {
		t.Errorf("appended %v, want %v", got, want)
	}

	ReadRequest(&r, l7.Fields{{Name: ":method", Value: "GET"}, {Name: ":path", Value: "/"}, {Name: ":authority", Value: "a"}, {Name: "host", Value: "b"}}, true)
	want = l7.Fields{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: "/"}, {Name: ":authority", Value: "a"}}
	if got := AppendRequest(nil, &r); r.Length != 0 || !slices.Equal(got, want) {
		t.Errorf("without content: length %d, appended %v, want %v", r.Length, got, want)
	}
}

func TestResponseHeads(t *testing.T) {
	length := l7.Fields{{Name: "content-length", Value: "7"}}
	for _, x := range []struct {
		name string
		res  l7.Response
		end  bool
		want l7.Fields
	}{
		{"content", l7.Response{Status: 200, Length: 7, Fields: length}, false, l7.Fields{{Name: ":status", Value: "200"}, {Name: "content-length", Value: "7"}}},
		{"none, of a length", l7.Response{Status: 418, Length: 0}, false, l7.Fields{{Name: ":status", Value: "418"}, {Name: "content-length", Value: "0"}}},
		{"none", l7.Response{Status: 404, Length: 0}, true, l7.Fields{{Name: ":status", Value: "404"}}},
		{"unknown", l7.Response{Status: 403, Length: -1}, false, l7.Fields{{Name: ":status", Value: "403"}}},
		{"to HEAD", l7.Response{Status: 304, Length: 0, Fields: length}, true, l7.Fields{{Name: ":status", Value: "304"}, {Name: "content-length", Value: "7"}}},
		{"204", l7.Response{Status: 204, Length: 0, Fields: length}, true, l7.Fields{{Name: ":status", Value: "204"}}},
		{"informational", l7.Response{Status: 103, Length: 7}, false, l7.Fields{{Name: ":status", Value: "103"}}},
	} {
		if got := AppendResponse(nil, &x.res, x.end); !slices.Equal(got, x.want) {
			t.Errorf("%s: appended %v, want %v", x.name, got, x.want)
		}
	}
	var r l7.Response
	if ReadResponse(&r, l7.Fields{{Name: ":status", Value: "200"}, {Name: "content-length", Value: "7"}}, false); r.Status != 200 || r.Length != 7 || !r.Fields.Has("content-length") {
		t.Errorf("read %+v", r)
	}
	if ReadResponse(&r, l7.Fields{{Name: ":status", Value: "200"}, {Name: "content-length", Value: "7"}}, true); r.Length != 0 {
		t.Errorf("of a response to HEAD the length is %d, want 0", r.Length)
	}
	if ReadResponse(&r, l7.Fields{{Name: ":status", Value: "200"}}, false); r.Length != -1 || len(r.Fields) != 0 {
		t.Errorf("read %+v", r)
	}
}
