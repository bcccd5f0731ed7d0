package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// A node is a part of a configuration: everything in it can be reached by keys and
// indices, and what is not there is nil.
type node struct{ v any }

func (n node) at(path ...any) node {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := n.v.(map[string]any)
			n.v = m[step]
		case int:
			s, _ := n.v.([]any)
			if step >= len(s) {
				return node{}
			}
			n.v = s[step]
		}
	}
	return n
}

func (n node) each() (all []node) {
	s, _ := n.v.([]any)
	for _, v := range s {
		all = append(all, node{v})
	}
	return all
}

func (n node) keys() []string {
	m, _ := n.v.(map[string]any)
	return slices.Sorted(maps.Keys(m))
}

func (n node) String() string { return fmt.Sprint(n.v) }

// named returns the element of a list that has a name.
func (n node) named(name string) node {
	for _, e := range n.each() {
		if e.at("name").v == name {
			return e
		}
	}
	return node{}
}

// rendered renders a configuration and reads its documents.
func rendered(t *testing.T, name string, data any) (path string, documents []node) {
	t.Helper()
	path, err := render(t.TempDir(), name, data)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(name, ".yaml") {
		return path, nil
	}
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var v any
		switch err := d.Decode(&v); {
		case errors.Is(err, io.EOF):
			return path, documents
		case err != nil:
			t.Fatalf("%s: %v", name, err)
		}
		documents = append(documents, node{v})
	}
}

func testMesh(t *testing.T) *mesh {
	t.Helper()
	m := newMesh(testEnv(t))
	m.Access, m.Admin = filepath.Join(t.TempDir(), "access.log"), netip.AddrPortFrom(m.Waypoint, portAdmin)
	return m
}

// TestEnvoyIsIstios holds Envoy's configuration to what makes a waypoint of it.
func TestEnvoyIsIstios(t *testing.T) {
	m := testMesh(t)
	_, documents := rendered(t, "envoy.yaml", m)
	listeners, clusters := documents[0].at("static_resources", "listeners"), documents[0].at("static_resources", "clusters")

	terminate := listeners.named("connect_terminate")
	if got := terminate.at("access_log", 0, "typed_config", "log_format", "json_format").keys(); !slices.Equal(got, accessKeys) {
		t.Errorf("access log: got %q", got)
	}
	if tls := terminate.at("filter_chains", 0, "transport_socket", "typed_config"); tls.at("require_client_certificate").v != true {
		t.Error("no client certificate is required")
	}
	inner := listeners.named("main_internal")
	var names []string
	for _, c := range inner.at("filter_chains").each() {
		name := c.at("name").String()
		names = append(names, name)
		if clusters.named(name).v == nil {
			t.Errorf("there is no cluster %s", name)
		}
		for _, r := range c.at("filters", 0, "typed_config", "route_config", "virtual_hosts", 0, "routes").each() {
			if to := r.at("route", "cluster").String(); clusters.named(to).v == nil {
				t.Errorf("%s leads to %s, which is no cluster", name, to)
			}
		}
		if !strings.Contains(inner.at("filter_chain_matcher").String(), "value:"+name) {
			t.Errorf("nothing leads to the chain %s", name)
		}
	}
	if want := len(m.Chains()); len(names) != want {
		t.Errorf("got %d chains, want %d", len(names), want)
	}

	items := inner.at("filter_chains").named("inbound-vip|80|http|items.default.svc.cluster.local").at("filters", 0, "typed_config")
	var filters []string
	for _, f := range items.at("http_filters").each() {
		filters = append(filters, strings.TrimPrefix(f.at("name").String(), "envoy.filters.http."))
	}
	if want := []string{"rbac", "grpc_stats", "fault", "cors", "router"}; !slices.Equal(filters, want) {
		t.Errorf("filters: got %q, want %q", filters, want)
	}
	policies := items.at("http_filters", 0, "typed_config", "rules", "policies")
	if got := policies.keys(); len(got) != len(m.Rules) {
		t.Errorf("policies: got %q, want %d", got, len(m.Rules))
	}
	if got := items.at("route_config", "virtual_hosts", 0, "routes").each(); len(got) != len(m.Routes) {
		t.Errorf("got %d routes, want %d", len(got), len(m.Routes))
	}

	originate := clusters.named("connect_originate")
	if got := originate.at("original_dst_lb_config", "upstream_port_override").v; got != portHBONE {
		t.Errorf("tunnels are opened at port %v", got)
	}
	if originate.at("transport_socket", "typed_config", "common_tls_context", "tls_certificates", 0).v == nil {
		t.Error("tunnels are opened without a certificate")
	}
}

// TestManifestsSayTheSame holds ours to the policy and the routes of the mesh.
func TestManifestsSayTheSame(t *testing.T) {
	m := testMesh(t)
	_, documents := rendered(t, "mesh.yaml", m)
	found := map[string]node{}
	for _, d := range documents {
		found[d.at("kind").String()+"/"+d.at("metadata", "name").String()] = d
	}
	rules := found["AuthorizationPolicy/items"].at("spec", "rules").each()
	if len(rules) != len(m.Rules) {
		t.Fatalf("got %d rules, want %d", len(rules), len(m.Rules))
	}
	for i, r := range m.Rules {
		got := rules[i].at("to", 0, "operation")
		if got.at("paths").String() != fmt.Sprint(r.Paths) || got.at("methods").String() != fmt.Sprint(r.Methods) {
			t.Errorf("rule %d: got %v, want %+v", i, got, r)
		}
		if p := rules[i].at("from", 0, "source", "principals", 0).String(); !strings.HasSuffix(p, "/"+r.Account) {
			t.Errorf("rule %d: got %s, want %s", i, p, r.Account)
		}
	}
	for _, name := range []string{"items-80", "items-81"} {
		if got := found["HTTPRoute/"+name].at("spec", "rules").each(); len(got) != len(m.Routes) {
			t.Errorf("%s: got %d rules, want %d", name, len(got), len(m.Routes))
		}
	}
	if len(found) != len(documents) {
		t.Errorf("%d of %d objects have a name of their own", len(found), len(documents))
	}
}

func TestFurtherServicesAreInTheManifests(t *testing.T) {
	e := testEnv(t)
	e.services = 300
	count := func() (n int) {
		_, documents := rendered(t, "mesh.yaml", newMesh(e))
		for _, d := range documents {
			if d.at("kind").v == "Service" {
				n++
			}
		}
		return n
	}
	many := count()
	e.services = 0
	if few := count(); many-few != 300 {
		t.Errorf("got %d services, and %d without the further 300", many, few)
	}
}

// TestProgramsTakeTheirConfigurations asks them.
func TestProgramsTakeTheirConfigurations(t *testing.T) {
	m := testMesh(t)
	check := func(name, program string, missing func() string, data any, args func(path string) []string) {
		t.Run(name, func(t *testing.T) {
			path, _ := rendered(t, name, data)
			if why := missing(); why != "" {
				t.Skip(why)
			}
			found, err := lookPath(program)
			if err != nil {
				t.Fatal(err)
			}
			if text, err := run(found, args(path)...); err != nil {
				t.Errorf("%v: %s", err, text)
			}
		})
	}
	at := func() string { return netip.AddrPortFrom(m.Spare, 8443).String() }
	fronts := []front{
		{Name: "pump", Bind: at(), To: at(), Accept: waypointAccount, Dial: waypointAccount, ALPN: "h2", Then: "h2"},
		{Name: "proxy", HTTP: true, Bind: at(), To: at(), Anyone: true},
	}
	health := netip.AddrPortFrom(m.Spare, portReady)
	check("haproxy.cfg", "haproxy", func() string { return onPath("haproxy", "haproxy") },
		haproxy{Threads: 2, Certs: m.Certs, Health: health, Fronts: fronts}, func(path string) []string { return []string{"-c", "-f", path} })
	dir := t.TempDir()
	check("nginx.conf", "nginx", noNginx,
		nginx{Dir: dir, Root: os.Getuid() == 0, Workers: 2, Certs: m.Certs, Health: health, Bind: netip.AddrPortFrom(m.Spare, 8443), TLS: true, To: m.Destination.HTTP1},
		func(path string) []string { return []string{"-t", "-p", dir, "-c", path, "-e", "stderr"} })
	program, err := envoyHere()
	check("envoy.yaml", program, func() string { return said(err) }, m,
		func(path string) []string { return append(envoyArguments(path, 1), "--mode", "validate") })
}
