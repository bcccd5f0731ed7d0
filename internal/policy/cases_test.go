package policy

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

func TestReadCases(t *testing.T) {
	s, err := ReadCases("dir/cases.yaml", []byte(`
trustDomain: td
rootNamespace: root
policies: [a.yaml, /b]
defaults: &all
  to: Service/a/b
  headers: {X-A: 1}
  port: 8080
cases:
- name: one
  from: a/c
  method: PUT
  path: /x
  host: h
  headers: {x-b: "2", x-a: 3}
  sourceIP: 10.0.0.1
  sni: s
  tcp: false
  at: node
  waypoint: a/w
  jwt: {iss: i, n: 1, list: [a, {b: c}]}
  answers: {x: deny}
  expect: deny
  policy: a/p
  status: 403
- expect: allow
`))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"dir/a.yaml", "/b"}; !reflect.DeepEqual(s.Policies, want) || s.Options.TrustDomain != "td" || s.Options.RootNamespace != "root" || len(s.Cases) != 2 {
		t.Fatalf("got %+v", s)
	}
	c := s.Cases[0]
	r := c.Request
	if c.Name != "one" || c.Line != 10 || c.Allow || c.Policy != "a/p" || c.Status != 403 || r.To != "Service/a/b" || r.From != "a/c" || r.Method != "PUT" ||
		r.Path != "/x" || r.Host != "h" || r.Port != 8080 || r.SNI != "s" || r.At != "node" || r.Waypoint != (mesh.Key{Namespace: "a", Name: "w"}) || r.SourceIP.String() != "10.0.0.1" {
		t.Errorf("got %+v", c)
	}
	if want := (l7.Fields{{Name: "x-a", Value: "3"}, {Name: "x-b", Value: "2"}}); !reflect.DeepEqual(r.Fields, want) {
		t.Errorf("got %v, want %v", r.Fields, want)
	}
	// Claims are what a JSON decoder would make of them.
	if want := map[string]any{"iss": "i", "n": 1.0, "list": []any{"a", map[string]any{"b": "c"}}}; !reflect.DeepEqual(r.Claims, want) {
		t.Errorf("got %#v, want %#v", r.Claims, want)
	}
	if said, known := r.Answers["x"]; said || !known {
		t.Errorf("got %v", r.Answers)
	}
	if second := s.Cases[1].Request; !reflect.DeepEqual(second.Fields, l7.Fields{{Name: "x-a", Value: "1"}}) || second.Claims != nil {
		t.Errorf("got %+v: the cases share what they have", second)
	}
}

func TestCasesThatAreWrong(t *testing.T) {
	for text, want := range map[string]string{
		"":                        "there is nothing in it",
		"a: [":                    "line 1",
		"- x":                     ":1: it is not a mapping",
		"casus: []":               ":1: casus: there is no such key",
		"cases: {}":               ":1: cases: there is no list",
		"policies: []":            ":1: cases: there is no list",
		"cases:\n- name: x":       ":2: expect: is required",
		"cases:\n- expect: maybe": ":2: expect: is neither",
		"cases:\n- expect: allow\n  expect: deny":    ":3: expect: is there twice",
		"cases:\n- expect: allow\n  port: 99999":     `:3: "99999"`,
		"cases:\n- expect: allow\n  status: [1]":     ":3: it is not a single value",
		"cases:\n- expect: allow\n  sourceIP: x":     `:3: "x"`,
		"cases:\n- expect: allow\n  tcp: maybe":      `:3: "maybe"`,
		"cases:\n- expect: allow\n  waypoint: x":     `:3: "x"`,
		"cases:\n- expect: allow\n  jwt: [x]":        ":3: jwt: it is not a mapping",
		"cases:\n- expect: allow\n  headers: x":      ":3: it is not a mapping",
		"cases:\n- expect: allow\n  answers: {x: y}": ":3: answers: is neither",
		"cases:\n- expect: allow\n  claims: {}":      ":3: claims: there is no such key",
		"defaults: {nope: 1}\ncases: []":             ":1: nope: there is no such key",
	} {
		_, err := ReadCases("c.yaml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), "c.yaml:") || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

func FuzzReadCases(f *testing.F) {
	seed, err := os.ReadFile(examples + "/test/cases.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(seed))
	f.Add("defaults: &a {to: x}\ncases: [{<<: *a, expect: deny}]")
	f.Add("cases: [{expect: allow, jwt: {a: .nan, 1: 2}}]")
	f.Add("cases: &c [*c]")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ReadCases("c.yaml", []byte(text))
		if err == nil {
			for _, c := range s.Cases {
				if c.Line < 1 || c.Line > strings.Count(text, "\n")+1 {
					t.Errorf("line %d", c.Line)
				}
			}
		}
	})
}
