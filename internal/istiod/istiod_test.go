package istiod

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAddresses(t *testing.T) {
	for address, want := range map[string]target{
		"https://istiod.istio-system.svc:15012":  {"istiod.istio-system.svc", "istiod.istio-system.svc:15012", false},
		"istiod.istio-system.svc:15012":          {"istiod.istio-system.svc", "istiod.istio-system.svc:15012", false},
		"istiod-canary.istio-system.svc":         {"istiod-canary.istio-system.svc", "istiod-canary.istio-system.svc:15012", false},
		"http://127.0.0.1":                       {"127.0.0.1", "127.0.0.1:15010", true},
		"https://[fd00::1]:15012/":               {"fd00::1", "[fd00::1]:15012", false},
		"https://istiod.istio-system.svc:15012/": {"istiod.istio-system.svc", "istiod.istio-system.svc:15012", false},
	} {
		o := Options{Address: address}
		if got, err := o.target(); err != nil || got != want || o.Plain() != want.plain {
			t.Errorf("%s: got %+v, %v, want %+v", address, got, err, want)
		}
	}
	for address, want := range map[string]string{
		"":                          "is not of the form https://host:port",
		"https://":                  "is not of the form https://host:port",
		"https://istiod:port":       "is not of the form https://host:port",
		"xds://istiod":              "the scheme is neither https nor http",
		"https://istiod/discovery":  "has more than a host and a port",
		"https://user:pass@istiod/": "has more than a host and a port",
		"https://istiod?x":          "has more than a host and a port",
	} {
		o := Options{Address: address, Roots: "x"}
		if err := o.Check(); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "pass") {
			t.Errorf("%s: got %v, want %s", address, err, want)
		}
		if _, err := o.Connect(); err == nil {
			t.Errorf("%s: connected", address)
		}
	}
}

func TestCallersSayWhoTheyAre(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "token")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := Options{Token: path, ClusterID: "c1", Headers: map[string]string{"X-A": "b"}}
	c := caller{o: &o}
	write(" a.b.c\n")
	md, err := c.GetRequestMetadata(t.Context())
	if err != nil || md["authorization"] != "Bearer a.b.c" || md["clusterid"] != "c1" || md["x-a"] != "b" || !c.RequireTransportSecurity() {
		t.Errorf("got %v, %v", md, err)
	}
	for text, want := range map[string]string{"": "is empty", "\n": "is empty", "secret\nsecret": "holds more than a token", "s\u00e9cret": "holds more than a token"} {
		write(text)
		if _, err := c.GetRequestMetadata(t.Context()); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "cret") {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
	plain := caller{&o, true}
	if md, err := plain.GetRequestMetadata(t.Context()); err != nil || md["authorization"] != "" || plain.RequireTransportSecurity() {
		t.Errorf("without TLS: got %v, %v", md, err)
	}
}

func TestRootsAreRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(path, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for roots, want := range map[string]string{
		path:                             "there is no certificate in " + path,
		path + ".gone":                   "no such file",
		"-----BEGIN CERTIFICATE-----\nx": "there is no certificate in what was given",
	} {
		o := Options{Address: "https://istiod", Roots: roots}
		if _, err := o.roots(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", roots, err, want)
		}
	}
	o := Options{Address: "https://istiod", Roots: systemRoots}
	if _, err := o.roots(); err != nil {
		t.Error(err)
	}
	// Files may come later; what is given at once is looked at.
	o.Roots = path + ".gone"
	if err := o.Check(); err != nil {
		t.Error(err)
	}
	o.Roots = "-----BEGIN CERTIFICATE-----\nx"
	if err := o.Check(); err == nil {
		t.Error("accepted")
	}
}
