package main

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"text/template"
)

// A mesh is what systems are told of the world, each in its own language: ours by
// the manifests a user would write, Envoy by what Istio makes of them, HAProxy by
// an address.
type mesh struct {
	Services []service
	Rules    []rule // of the policy of service items, whose last one lets the load pass
	Routes   []route
	Further  []service // that nobody asks for; see env.services

	Client   netip.Addr // where the generator connects from, or has its node tunnel
	Waypoint netip.Addr // itself
	Server   netip.Addr // the destination
	Spare    netip.Addr // a pod that runs nowhere

	Loops       int
	Certs       *certificates
	Access      string // the file of the access log
	Admin       netip.AddrPort
	Destination destination
}

// A service is one with a virtual address.
type service struct {
	Name    string
	IP      string
	Version string // of the pods behind it
	Ports   []port
}

// A port is one of a service; its protocol, "http", "grpc" or "tcp" for neither, is
// declared.
type port struct {
	Number, Target int
	Protocol       string
}

// End is the first port after it.
func (p port) End() int { return p.Number + 1 }

// A rule is one of an ALLOW policy: all of it must hold.
type rule struct {
	Account string
	Methods []string
	Paths   []string // as AuthorizationPolicy writes them: a star at the end is a prefix
}

// A route is one rule of an HTTPRoute, in the order of precedence.
type route struct {
	Exact, Prefix, Method string
	Header, Is            string
	Backend               string
	Set, To               string // a field to set in the request
}

// newMesh returns the world of a system that is to run in e.
func newMesh(e *env) *mesh {
	http := []port{{80, 8080, "http"}, {81, 8080, "grpc"}}
	m := &mesh{
		Services: []service{
			{"items", "10.96.0.10", "v1", http},
			{"items-v2", "10.96.0.12", "v2", http},
			{"queue", "10.96.0.11", "v1", []port{{82, 8080, "tcp"}}},
		},
		// Three rules that ask for principal, method and path; whoever does not
		// satisfy the last has been asked about all of them.
		Rules: []rule{
			{"monitor", []string{"GET"}, []string{"/metrics", "/healthz"}},
			{"batch", []string{"POST", "PUT"}, []string{"/import/*"}},
			{clientAccount, []string{"GET", "POST"}, []string{"/", "/items*", "/grpc.testing.BenchmarkService/*"}},
		},
		Routes: []route{
			{Exact: "/healthz", Backend: "items-v2"},
			{Prefix: "/reports", Method: "POST", Backend: "items-v2"},
			{Prefix: "/", Header: "x-canary", Is: "always", Backend: "items-v2"},
			{Prefix: "/", Backend: "items", Set: "x-route", To: "items"},
		},
		Client:      netip.AddrFrom4([4]byte{127, 0, 0, 1}), // it binds to nothing else
		Waypoint:    e.address(),
		Server:      e.destination.HBONE.Addr(),
		Spare:       e.address(),
		Loops:       e.loops,
		Certs:       e.certs,
		Destination: e.destination,
	}
	for n := range e.services {
		m.Further = append(m.Further, service{fmt.Sprintf("further-%d", n), fmt.Sprintf("10.97.%d.%d", n/250, n%250+1), "none", http})
	}
	return m
}

//go:embed configs
var configs embed.FS

// render writes a configuration into dir and returns its path.
func render(dir, name string, data any) (string, error) {
	t := template.New(name + ".tmpl").Option("missingkey=error").Funcs(template.FuncMap{
		"quote": quote,
		"star":  star,
		"list":  list,
	})
	t, err := t.ParseFS(configs, "configs/"+name+".tmpl")
	if err != nil {
		return "", err
	}
	text := new(bytes.Buffer)
	if err := t.Execute(text, data); err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, text.Bytes(), 0o644)
}

// quote returns v as JSON, which is YAML too.
func quote(v any) (string, error) {
	text, err := json.Marshal(v)
	return string(text), err
}

// star returns how Envoy matches what a policy writes with or without a star.
func star(path string) map[string]string {
	if n := len(path) - 1; path[n] == '*' {
		return map[string]string{"prefix": path[:n]}
	}
	return map[string]string{"exact": path}
}

func list(v ...any) []any { return v }
