package l7

import (
	"slices"
	"strings"
	"testing"
	"unsafe"
)

func some() Fields {
	return Fields{{"a", "1"}, {"b", ""}, {"a", "2"}, {"cookie", "x=1"}, {"c", "3"}, {"cookie", "y=2"}, {"a", "4"}}
}

func TestFieldsGetAndHas(t *testing.T) {
	for _, c := range []struct {
		name, value, joined string
		has                 bool
	}{
		{"a", "1", "1,2,4", true},
		{"b", "", "", true},
		{"c", "3", "3", true},
		{"cookie", "x=1", "x=1; y=2", true},
		{"d", "", "", false},
		{"A", "", "", false},
	} {
		f := some()
		if got := f.Get(c.name); got != c.value {
			t.Errorf("Get(%q) = %q, want %q", c.name, got, c.value)
		}
		if got := f.Has(c.name); got != c.has {
			t.Errorf("Has(%q) = %v, want %v", c.name, got, c.has)
		}
		if got, ok := f.Joined(c.name); got != c.joined || ok != c.has {
			t.Errorf("Joined(%q) = %q, %v, want %q, %v", c.name, got, ok, c.joined, c.has)
		}
	}
}

func TestFieldsSetAndDel(t *testing.T) {
	for _, c := range []struct {
		name string
		got  Fields
		want Fields
	}{
		{"set repeated", some().Set("a", "9"), Fields{{"a", "9"}, {"b", ""}, {"cookie", "x=1"}, {"c", "3"}, {"cookie", "y=2"}}},
		{"set new", some()[:2].Set("d", "9"), Fields{{"a", "1"}, {"b", ""}, {"d", "9"}}},
		{"set in nil", Fields(nil).Set("d", "9"), Fields{{"d", "9"}}},
		{"del repeated", some().Del("a"), Fields{{"b", ""}, {"cookie", "x=1"}, {"c", "3"}, {"cookie", "y=2"}}},
		{"del absent", some()[:2].Del("d"), Fields{{"a", "1"}, {"b", ""}}},
		{"del in nil", Fields(nil).Del("d"), nil},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, c.got, c.want)
		}
	}
}

// views returns a string that is a view of b, as a codec hands out.
func views(b []byte) func(n int) string {
	return func(n int) string {
		s := unsafe.String(&b[0], n)
		b = b[n:]
		return s
	}
}

func TestCloneOwnsItsStrings(t *testing.T) {
	const text = "POSTexample:80/a?bx-onefirstx-twosecondwebsocket."
	buf := []byte(text)
	cut := views(buf)
	r := &Request{Method: cut(4), Authority: cut(10), Path: cut(4), Scheme: "http", Length: 7, Protocol: HTTP10}
	r.Fields = Fields{{cut(5), cut(5)}, {cut(5), cut(6)}}
	r.Upgrade = cut(9)
	s := &Response{Status: 101, Fields: r.Fields, Upgrade: r.Upgrade, Length: -1}

	gotR, gotS, gotF := r.Clone(), s.Clone(), r.Fields.Clone()
	copy(buf, strings.Repeat("#", len(buf)))

	fields := Fields{{"x-one", "first"}, {"x-two", "second"}}
	if gotR.Method != "POST" || gotR.Authority != "example:80" || gotR.Path != "/a?b" || gotR.Scheme != "http" ||
		gotR.Upgrade != "websocket" || gotR.Length != 7 || gotR.Protocol != HTTP10 || !slices.Equal(gotR.Fields, fields) {
		t.Errorf("Request.Clone() = %+v", gotR)
	}
	if gotS.Status != 101 || gotS.Upgrade != "websocket" || gotS.Length != -1 || !slices.Equal(gotS.Fields, fields) {
		t.Errorf("Response.Clone() = %+v", gotS)
	}
	if !slices.Equal(gotF, fields) {
		t.Errorf("Fields.Clone() = %v, want %v", gotF, fields)
	}
	gotR.Fields = gotR.Fields.Set("x-one", "other")
	if r.Fields[0].Value == "other" {
		t.Error("a change to the clone changed the original")
	}
}

func TestCloneOfNothing(t *testing.T) {
	if got := Fields(nil).Clone(); got != nil {
		t.Errorf("Clone() of nil = %v", got)
	}
	if got := (Fields{}).Clone(); got == nil || len(got) != 0 {
		t.Errorf("Clone() of none = %#v", got)
	}
	if got := new(Request).Clone(); got.Fields != nil || got.Method != "" {
		t.Errorf("Clone() of a zero request = %+v", got)
	}
}

func TestCloneAllocs(t *testing.T) {
	r := &Request{Method: "GET", Authority: "a", Path: "/", Fields: some()}
	if n := testing.AllocsPerRun(100, func() { r.Clone() }); n > 3 {
		t.Errorf("Request.Clone allocates %v times, want 3: the request, its fields, their bytes", n)
	}
}

func TestIsGRPC(t *testing.T) {
	for ct, want := range map[string]bool{
		"application/grpc": true, "application/grpc+proto": true, "application/grpc;charset=utf-8": true,
		"application/grpc-web": false, "application/json": false, "": false, "application/grpcx": false,
	} {
		r := &Request{Fields: Fields{{"content-type", ct}}}
		if got := r.IsGRPC(); got != want {
			t.Errorf("IsGRPC of %q = %v, want %v", ct, got, want)
		}
	}
	if new(Request).IsGRPC() {
		t.Error("IsGRPC without content-type = true")
	}
}

func TestPathOnly(t *testing.T) {
	for path, want := range map[string]string{"/a?b": "/a", "/a": "/a", "/?": "/", "*": "*", "/a?b?c": "/a"} {
		if got := (&Request{Path: path}).PathOnly(); got != want {
			t.Errorf("PathOnly of %q = %q, want %q", path, got, want)
		}
	}
}

func TestProtocolString(t *testing.T) {
	for p, want := range map[Protocol]string{HTTP11: "HTTP/1.1", HTTP10: "HTTP/1.0", HTTP2: "HTTP/2"} {
		if got := p.String(); got != want {
			t.Errorf("%d.String() = %q, want %q", p, got, want)
		}
	}
}
