package routing

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/script"
)

// The scripts in testdata say how requests are routed. Their commands are
//
//	routes      compiles routes and rules; prints nothing, or the errors
//	match       prints, for each request, the rule and what became of the request
//	redirect    prints, for each request, the response
//	normalize   prints each path in the normalisation that the command names
func TestScripts(t *testing.T) {
	script.Run(t, "testdata/*.txt", func(t *testing.T) func(*script.Block) string {
		var table *Table
		return func(b *script.Block) string {
			var out strings.Builder
			switch b.Command {
			case "routes":
				var err error
				if table, err = Compile(parseRoutes(t, b.Lines())...); err != nil {
					fmt.Fprintln(&out, err)
				}
			case "match":
				for _, line := range b.Lines() {
					fmt.Fprintln(&out, describe(table, parseRequest(t, line)))
				}
			case "redirect":
				for _, line := range b.Lines() {
					fmt.Fprintln(&out, redirect(table, parseRequest(t, line)))
				}
			case "normalize":
				n, err := ParseNormalization(strings.Join(b.Args, " "))
				if err != nil {
					b.Fatalf("%v", err)
				}
				for _, line := range b.Lines() {
					fmt.Fprintln(&out, normalize(n, line))
				}
			default:
				b.Fatalf("unknown command %q", b.Command)
			}
			return out.String()
		}
	})
}

// redirect prints the response to a request that a rule redirects.
func redirect(table *Table, req *l7.Request) string {
	resp, ok := table.Match(req).Redirect(req, 9080)
	if !ok {
		return "none"
	}
	return fmt.Sprint(resp.Status, " ", resp.Fields.Get("location"))
}

func normalize(n Normalization, path string) string {
	p, err := Normalize(n, path)
	if err != nil {
		return "error " + err.Error()
	}
	return p
}

// describe prints the rule a request matches and the request it becomes.
func describe(table *Table, req *l7.Request) string {
	r := table.Match(req)
	if r == nil {
		return "404"
	}
	r.ApplyRequest(req)
	out := r.Name + " " + req.Path
	if req.Authority != "items" {
		out += " host=" + req.Authority
	}
	for _, f := range req.Fields {
		out += " " + f.Name + "=" + f.Value
	}
	switch b := r.PickBackend(0); {
	case b == nil:
		out += " 500"
	case b.Invalid != "":
		out += " 500 " + b.Invalid
	case b.Service != mesh.Hostname{}:
		out += " -> " + b.Service.Host + ":" + strconv.Itoa(int(b.Port))
	}
	return out
}

// parseRequest reads "GET /path name=value …"; the name host is the authority.
func parseRequest(t testing.TB, line string) *l7.Request {
	t.Helper()
	words := strings.Fields(line)
	req := &l7.Request{Method: words[0], Path: words[1], Scheme: "http", Authority: "items"}
	for _, w := range words[2:] {
		name, value, _ := strings.Cut(w, "=")
		if name == "host" {
			req.Authority = value
			continue
		}
		req.Fields = append(req.Fields, l7.Field{Name: name, Value: value})
	}
	return req
}

// parseRoutes reads lines of routes, each followed by its rules, each followed
// by its matches, filters and backends.
//
//	route default/items 2024-01-02
//	rule name
//	match exact=/a method=GET header.x=1 query.q~=re
//	request set.x=1 add.y=2 remove.z
//	rewrite host=h prefix=/b full=/c
//	redirect scheme=https host=h port=1 status=301 prefix=/b full=/c
//	backend items:80 weight=1 invalid=reason
func parseRoutes(t testing.TB, lines []string) []*Route {
	t.Helper()
	var routes []*Route
	var rule *RouteRule
	for _, line := range lines {
		words := strings.Fields(line)
		args := words[1:]
		switch words[0] {
		case "route":
			ns, name, _ := strings.Cut(args[0], "/")
			r := &Route{Namespace: ns, Name: name, Parents: []Parent{{Service: mesh.Hostname{Namespace: ns, Host: "items"}}}}
			if len(args) > 1 {
				r.Created, _ = time.Parse(time.DateOnly, args[1])
			}
			routes = append(routes, r)
		case "rule":
			r := routes[len(routes)-1]
			r.Rules = append(r.Rules, RouteRule{})
			rule = &r.Rules[len(r.Rules)-1]
			if len(args) > 0 {
				rule.Name = args[0]
			}
		case "match":
			rule.Matches = append(rule.Matches, parseMatch(t, args))
		case "request":
			rule.Filters.Request = parseEdit(args)
		case "response":
			rule.Filters.Response = parseEdit(args)
		case "rewrite":
			rule.Filters.Rewrite = &Rewrite{Hostname: arg(args, "host"), Path: parsePathEdit(args)}
		case "redirect":
			rule.Filters.Redirect = &Redirect{Scheme: arg(args, "scheme"), Hostname: arg(args, "host"), Port: uint16(number(args, "port")), Status: number(args, "status"), Path: parsePathEdit(args)}
		case "backend":
			host, port, _ := strings.Cut(args[0], ":")
			p, _ := strconv.Atoi(port)
			rule.Backends = append(rule.Backends, Backend{Service: mesh.Hostname{Namespace: "default", Host: host}, Port: uint16(p), Weight: uint32(number(args, "weight")), Invalid: arg(args, "invalid")})
		default:
			t.Fatalf("unknown line %q", line)
		}
	}
	return routes
}

func parseMatch(t testing.TB, args []string) (m Match) {
	t.Helper()
	for _, a := range args {
		name, v, _ := strings.Cut(a, "=")
		name, regex := strings.CutSuffix(name, "~")
		kind, key, _ := strings.Cut(name, ".")
		switch kind {
		case "exact":
			m.Path = PathMatch{PathExact, v}
		case "prefix":
			m.Path = PathMatch{PathPrefix, v}
		case "regex":
			m.Path = PathMatch{PathRegex, v}
		case "method":
			m.Method = v
		case "header":
			m.Headers = append(m.Headers, ValueMatch{key, v, regex})
		case "query":
			m.Query = append(m.Query, ValueMatch{key, v, regex})
		default:
			t.Fatalf("unknown match %q", a)
		}
	}
	return m
}

func parseEdit(args []string) *HeaderEdit {
	e := &HeaderEdit{}
	for _, a := range args {
		name, v, _ := strings.Cut(a, "=")
		kind, key, _ := strings.Cut(name, ".")
		switch kind {
		case "set":
			e.Set = append(e.Set, l7.Field{Name: key, Value: v})
		case "add":
			e.Add = append(e.Add, l7.Field{Name: key, Value: v})
		case "remove":
			e.Remove = append(e.Remove, key)
		}
	}
	return e
}

func parsePathEdit(args []string) *PathEdit {
	for _, a := range args {
		switch name, v, _ := strings.Cut(a, "="); name {
		case "full":
			return &PathEdit{Value: v}
		case "prefix":
			return &PathEdit{Prefix: true, Value: v}
		}
	}
	return nil
}

func arg(args []string, name string) string {
	for _, a := range args {
		if n, v, _ := strings.Cut(a, "="); n == name {
			return v
		}
	}
	return ""
}

func number(args []string, name string) int {
	n, _ := strconv.Atoi(arg(args, name))
	return n
}
