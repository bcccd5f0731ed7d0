package opa

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/extauthz"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// written returns the document of r as JSON.
func written(t *testing.T, p *authz.Provider, r *extauthz.Request) string {
	t.Helper()
	doc, err := document(p, r)
	if err != nil {
		t.Fatal(err)
	}
	value, err := ast.JSON(doc)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The document is the one of OPA's plugin for Envoy: see its documentation,
// "Example Input", and envoyauth's RequestToInput.
func TestDocumentIsThePlugins(t *testing.T) {
	p := provider(authz.OPAPolicy{})
	r := asked("POST", "//a%20b/c?x=1&x=2", "", `{"n":12345678901234567890}`)
	text := written(t, p, r)
	for _, want := range []string{
		`"source":{"address":{"socketAddress":{"address":"10.0.0.1","portValue":4000}},"principal":"spiffe://cluster.local/ns/default/sa/sleep"}`,
		`"parsed_path":["a b","c"]`, `"parsed_query":{"x":["1","2"]}`, `"parsed_body":{"n":12345678901234567890}`, `"size":26`,
		`"truncated_body":false`, `"version":{"encoding":"protojson","ext_authz":"v3"}`, `"time":{"seconds":1000}`, `"protocol":"HTTP/1.1"`,
		`"source_principal":"spiffe://cluster.local/ns/default/sa/sleep"`, `"body":"{\"n\":12345678901234567890}"`, `":path":"//a%20b/c?x=1\u0026x=2"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	r.Partial = true
	if text = written(t, p, r); !strings.Contains(text, `"parsed_body":null`) || !strings.Contains(text, `"truncated_body":true`) {
		t.Errorf("of partial content there is\n%s", text)
	}
	r.Partial, p.Body = false, &authz.Body{AsBytes: true}
	if text = written(t, p, r); !strings.Contains(text, `"rawBody":"eyJuIjoxMjM0NTY3ODkwMTIzNDU2Nzg5MH0="`) || strings.Contains(text, `"body":`) {
		t.Errorf("as bytes there is\n%s", text)
	}
}

// The attributes are those that a service would be asked with, as the plugin
// writes a message: the fields that are set, by their names in JSON, numbers as
// numbers.
func TestAttributesAreThoseOfTheMessage(t *testing.T) {
	p := provider(authz.OPAPolicy{})
	for name, r := range map[string]*extauthz.Request{
		"a request":    asked("POST", "/a?b", guest, "{}"),
		"of nobody":    {Head: &l7.Request{Method: "GET", Length: -1, Upgrade: "websocket", Fields: l7.Fields{{Name: "x-request-id", Value: "1"}, {Name: "x", Value: "\xff"}}}},
		"a connection": {Source: netip.MustParseAddrPort("10.0.0.1:1"), Peer: identity.ID{TrustDomain: "td", Namespace: "ns", ServiceAccount: "sa"}},
	} {
		doc, err := document(p, r)
		if err != nil {
			t.Fatal(err)
		}
		got := doc.(ast.Object).Get(ast.StringTerm("attributes"))
		if want := messageValue(extauthz.Attributes(p, r).ProtoReflect()); got.Value.Compare(want) != 0 {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}

func messageValue(m protoreflect.Message) ast.Value {
	doc := ast.NewObject()
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		value := scalarValue(v)
		if f.IsMap() {
			entries := ast.NewObject()
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				entries.Insert(ast.StringTerm(k.String()), ast.NewTerm(scalarValue(v)))
				return true
			})
			value = entries
		}
		doc.Insert(ast.StringTerm(f.JSONName()), ast.NewTerm(value))
		return true
	})
	return doc
}

func scalarValue(v protoreflect.Value) ast.Value {
	if m, ok := v.Interface().(protoreflect.Message); ok {
		return messageValue(m)
	}
	value, _ := ast.InterfaceToValue(v.Interface())
	return value
}

func TestContentIsParsed(t *testing.T) {
	const form = "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n" +
		"--b\r\nContent-Disposition: form-data; name=\"a\"\r\nContent-Type: application/json\r\n\r\n{\"x\":2}\r\n--b--\r\n"
	for _, x := range []struct{ kind, content, want string }{
		{"application/x-www-form-urlencoded; charset=utf-8", "a=1&a=2&b=x%20y", `{"a":["1","2"],"b":["x y"]}`},
		{"application/json", `[1, "a", null]`, `[1,"a",null]`},
		{"application/json; charset=utf-8", `"a"`, `"a"`},
		{"multipart/form-data; boundary=b", form, `{"a":["1",{"x":2}]}`},
		{"multipart/form-data", form, `null`},
		{"text/plain", `{}`, `null`},
		{"application/grpc", "\x00\x00\x00\x00\x00", `null`},
		{"application/json", "", `null`},
	} {
		r := asked("POST", "/", "", x.content)
		r.Head.Fields = l7.Fields{{Name: "content-type", Value: x.kind}}
		if text := written(t, provider(authz.OPAPolicy{}), r); !strings.Contains(text, `"parsed_body":`+x.want) {
			t.Errorf("%s: no %s in\n%s", x.kind, x.want, text)
		}
	}
}

// A request that is not what it says it is has no document.
func TestWhatIsBrokenHasNoDocument(t *testing.T) {
	for _, x := range []struct{ target, kind, content string }{
		{"/%zz", "", ""}, {"/?a=%zz", "", ""}, {"/?a;b", "", ""},
		{"/", "application/json", "{"}, {"/", "application/json", "{} {}"}, {"/", "application/x-www-form-urlencoded", "a=%zz"},
		{"/", "multipart/form-data; boundary=b", "--b\r\nno header\r\n\r\n"}, {"/", "multipart/form-data; boundary", "x"},
	} {
		r := asked("POST", x.target, "", x.content)
		r.Head.Fields = l7.Fields{{Name: "content-type", Value: x.kind}}
		if doc, err := document(provider(authz.OPAPolicy{}), r); err == nil {
			t.Errorf("%+v: the document is %v", x, doc)
		}
	}
}

func FuzzDocument(f *testing.F) {
	f.Add("/a%20b/c?x=1&x=2", "application/json", []byte(`{"a":[1]}`))
	f.Add("*", "multipart/form-data; boundary=b", []byte("--b\r\n\r\n\r\n--b--"))
	f.Add("/?a;b", "application/x-www-form-urlencoded", []byte("a=%zz"))
	f.Fuzz(func(t *testing.T, target, kind string, content []byte) {
		r := asked("POST", target, "", string(content))
		r.Head.Fields = l7.Fields{{Name: "content-type", Value: kind}}
		doc, err := document(provider(authz.OPAPolicy{}), r)
		if err != nil {
			return
		}
		if _, err := ast.JSON(doc); err != nil {
			t.Errorf("the document cannot be written: %v", err)
		}
	})
}
