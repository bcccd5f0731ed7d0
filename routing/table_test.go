package routing

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

func compile(t testing.TB, text string) *Table {
	t.Helper()
	table, err := Compile(parseRoutes(t, strings.Split(strings.TrimSpace(text), "\n"))...)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

const usual = `
route default/r
rule exact
match exact=/productpage method=GET header.end-user=jason query.debug=1
backend v1:80 weight=90
backend v2:80 weight=10
rule prefix
match prefix=/static
backend v1:80 weight=1
rule regex
match regex=/api/v[0-9]+/.* header.x-version~=v.*
request set.x-seen=1
rewrite full=/x
backend v1:80 weight=1
rule rest
match prefix=/
backend v1:80 weight=1`

func TestMatchAllocatesNothing(t *testing.T) {
	table := compile(t, usual)
	for _, line := range []string{
		"GET /productpage?debug=1&x=2 end-user=jason",
		"GET /productpage?d%65bug=%31 end-user=jason",
		"GET /static/a/b/c/d.css",
		"GET /api/v1/products x-version=v2",
		"POST /elsewhere",
	} {
		req := parseRequest(t, line)
		got := testing.AllocsPerRun(100, func() {
			if table.Match(req).PickBackend(42) == nil {
				t.Fatal("no backend")
			}
		})
		if got != 0 {
			t.Errorf("%s: %v allocations, want 0", line, got)
		}
	}
}

func TestApplyRequestTakesAPrefixAwayWithoutAllocating(t *testing.T) {
	table := compile(t, "route default/r\nrule\nmatch prefix=/v1\nrewrite prefix=/\nbackend a:80 weight=1")
	req := parseRequest(t, "GET /v1/items?q")
	rule := table.Match(req)
	got := testing.AllocsPerRun(100, func() {
		req.Path = "/v1/items?q"
		rule.ApplyRequest(req)
	})
	if got != 0 || req.Path != "/items?q" {
		t.Errorf("path %q, %v allocations, want /items?q and 0", req.Path, got)
	}
}

func TestNilTableMatchesEverything(t *testing.T) {
	var table *Table
	req := parseRequest(t, "GET /")
	r := table.Match(req)
	if r == nil || r.Name != "default" || r.Route != nil {
		t.Fatalf("rule %+v, want the default one", r)
	}
	if b := r.PickBackend(7); b == nil || b.Service != (mesh.Hostname{}) {
		t.Errorf("backend %+v, want the service itself", b)
	}
}

func TestMatchOfManySlashesLooksNoFurtherThanItsLongestPrefix(t *testing.T) {
	table := compile(t, "route default/r\nrule\nmatch prefix=/a/b\nbackend v1:80 weight=1")
	req := &l7.Request{Method: "GET", Path: "/a/b" + strings.Repeat("/", 1<<20)}
	if r := table.Match(req); r == nil {
		t.Error("no rule, want that of the prefix")
	}
	req.Path = strings.Repeat("/", 1<<20)
	if r := table.Match(req); r != nil {
		t.Errorf("rule %s, want none", r.Name)
	}
}

func TestResponseEdits(t *testing.T) {
	table := compile(t, "route default/r\nrule\nresponse set.Server=x add.Via=y remove.X-Internal\nbackend v1:80 weight=1")
	r := table.Match(parseRequest(t, "GET /"))
	resp := &l7.Response{Status: 200, Fields: l7.Fields{{Name: "server", Value: "a"}, {Name: "x-internal", Value: "b"}}}
	r.ApplyResponse(resp)
	want := l7.Fields{{Name: "server", Value: "x"}, {Name: "via", Value: "y"}}
	if !slices.Equal(resp.Fields, want) {
		t.Errorf("fields %v, want %v", resp.Fields, want)
	}
}

func TestBackendEdits(t *testing.T) {
	edit := func(v string) *HeaderEdit { return &HeaderEdit{Set: []l7.Field{{Name: "X-Version", Value: v}}} }
	table, err := Compile(&Route{Namespace: "default", Name: "r", Parents: []Parent{{}}, Rules: []RouteRule{{
		Filters:  Filters{Request: edit("rule")},
		Backends: []Backend{{Weight: 1, Filters: Filters{Request: edit("backend"), Response: edit("backend")}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	req, resp := parseRequest(t, "GET /"), &l7.Response{}
	r := table.Match(req)
	r.ApplyRequest(req)
	b := r.PickBackend(0)
	b.ApplyRequest(req)
	b.ApplyResponse(resp)
	if got := req.Fields.Get("x-version") + " " + resp.Fields.Get("x-version"); got != "backend backend" {
		t.Errorf("x-version of request and response: %q, want the backend's", got)
	}
}

func TestValidateWantsAParent(t *testing.T) {
	_, err := Compile(&Route{Namespace: "default", Name: "r"}, &Route{Namespace: "default", Name: "s"})
	if err == nil || strings.Count(err.Error(), "parentRefs") != 2 {
		t.Errorf("error %v, want one for each route", err)
	}
}

func TestSpeaks(t *testing.T) {
	svc := &mesh.Service{Name: "items", Namespace: "default", Hostname: "items.default.svc.cluster.local",
		Ports: []mesh.Port{{Name: "http", Service: 80}, {Name: "grpc", Service: 81}}}
	for _, tt := range []struct {
		parent     Parent
		http, grpc bool
	}{
		{Parent{Service: svc.Host()}, true, true},
		{Parent{Service: svc.Host(), Port: 80}, true, false},
		{Parent{Service: svc.Host(), Section: "grpc"}, false, true},
		{Parent{Service: svc.Host(), Port: 80, Section: "grpc"}, false, false},
		{Parent{Service: mesh.Hostname{Namespace: "other", Host: svc.Hostname}}, false, false},
	} {
		r := &Route{Parents: []Parent{{}, tt.parent}}
		if a, b := r.Speaks(svc, &svc.Ports[0]), r.Speaks(svc, &svc.Ports[1]); a != tt.http || b != tt.grpc {
			t.Errorf("%+v speaks of http %v, grpc %v, want %v, %v", tt.parent, a, b, tt.http, tt.grpc)
		}
		if got := r.Speaks(svc, nil); got != (tt.parent.Service == svc.Host()) {
			t.Errorf("%+v speaks of the service: %v", tt.parent, got)
		}
	}
}

// slowMatch is Match by the definition: every entry is tried, in order.
func slowMatch(entries []*entry, req *l7.Request) *Rule {
	path, query, _ := strings.Cut(req.Path, "?")
	for _, e := range entries {
		written := e.route.Rules[e.index].Matches[e.match].Path
		var ok bool
		switch v := strings.TrimSuffix(written.Value, "/"); written.Kind {
		case AnyPath:
			ok = true
		case PathExact:
			ok = path == written.Value
		case PathPrefix:
			ok = v == "" || path == v || strings.HasPrefix(path, v+"/")
		case PathRegex:
			ok = regexp.MustCompile("^(?:" + written.Value + ")$").MatchString(path)
		}
		if ok && e.matches(req, path, query) {
			return e.rule
		}
	}
	return nil
}

func FuzzMatch(f *testing.F) {
	f.Add("/a/b", uint16(0x1234))
	f.Add("/a//b/?x", uint16(0xffff))
	f.Add("//", uint16(7))
	f.Add("*", uint16(1))
	f.Add("/aa", uint16(0x0f0f))
	paths := []string{"/", "/a", "/a/", "/a/b", "/aa", "/b", "/a/b/c", "/b/"}
	f.Fuzz(func(t *testing.T, path string, pick uint16) {
		r := &Route{Namespace: "default", Name: "r", Parents: []Parent{{}}}
		for i, p := range paths {
			if pick>>i&1 == 0 {
				continue
			}
			kind := []PathKind{PathExact, PathPrefix, PathRegex, PathPrefix}[(int(pick)>>8+i)%4]
			r.Rules = append(r.Rules, RouteRule{Name: fmt.Sprint(kind, " ", p), Matches: []Match{{Path: PathMatch{kind, p}}}})
		}
		table, err := Compile(r)
		if err != nil {
			t.Fatal(err)
		}
		var entries []*entry
		for i := range r.Rules {
			es, err := compileRule(r, i)
			if err != nil {
				t.Fatal(err)
			}
			entries = append(entries, es...)
		}
		slices.SortFunc(entries, precedence)
		req := &l7.Request{Method: "GET", Path: path}
		got, want := "none", "none"
		if r := table.Match(req); r != nil {
			got = r.Name
		}
		if r := slowMatch(entries, req); r != nil {
			want = r.Name
		}
		if got != want {
			t.Errorf("%q: rule %s, want %s", path, got, want)
		}
	})
}

// BenchmarkMatch matches one request; 1,000 is a table of so many prefixes.
func BenchmarkMatch(b *testing.B) {
	many := "route default/r\n"
	for i := range 1000 {
		many += fmt.Sprintf("rule\nmatch prefix=/service-%d/api method=GET\nbackend v1:80 weight=1\n", i)
	}
	for _, bb := range []struct{ name, routes, request string }{
		{"none", "", "GET /productpage"},
		{"exact", usual, "GET /productpage?debug=1 end-user=jason accept=* user-agent=curl"},
		{"prefix", usual, "GET /static/a/b/c/d.css"},
		{"regex", usual + "\nrule\nmatch regex=/z/[a-z]*\nbackend v1:80 weight=1", "GET /api/v1/products x-version=v2"},
		{"1000", many, "GET /service-999/api/v1/items/42"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			var table *Table
			if bb.routes != "" {
				table = compile(b, bb.routes)
			}
			req := parseRequest(b, bb.request)
			b.ReportAllocs()
			for b.Loop() {
				if table.Match(req).PickBackend(3) == nil {
					b.Fatal("no backend")
				}
			}
		})
	}
}
