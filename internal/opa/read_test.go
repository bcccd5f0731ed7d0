package opa

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/compile"

	"github.com/waystone-mesh/waystone/authz"
)

// place writes files below dir, by their names.
func place(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// packed returns a file with the bundle that is in a directory.
func packed(t *testing.T, dir string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "bundle.tar.gz")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z := gzip.NewWriter(f)
	w := tar.NewWriter(z)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return name
}

// opens reports how a policy answers GET of a path.
func opens(t *testing.T, a *Authorizer, path string) bool {
	t.Helper()
	got, err := a.Ask(t.Context(), asked("GET", path, "", ""))
	if err != nil {
		t.Error(err)
	}
	return got.Allowed
}

func TestBundles(t *testing.T) {
	old := t.TempDir()
	place(t, old, map[string]string{
		".manifest":       `{"revision": "r7"}`,
		"policy.rego":     "package envoy.authz\ndefault allow = false\nallow { input.parsed_path[0] == data.roles.open[_] }\n",
		"roles/data.yaml": "open: [health, docs]\n",
	})
	for _, path := range []string{"testdata/bundle", packed(t, "testdata/bundle"), old} {
		a := good(t, opened(t, authz.OPAPolicy{Path: path}, Options{}))
		if !opens(t, a, "/docs/1") || opens(t, a, "/people") {
			t.Errorf("%s decides otherwise", path)
		}
		if got := a.Status().Revision; got != "r7" {
			t.Errorf("%s: the revision is %q", path, got)
		}
	}
}

// What "opa build --optimize=1 --entrypoint envoy/authz/allow" makes is evaluated in
// part already.
func TestOptimizedBundles(t *testing.T) {
	dir := t.TempDir()
	place(t, dir, roleData(20))
	var packed bytes.Buffer
	c := compile.New().WithPaths(dir).WithAsBundle(true).WithOptimizationLevel(1).WithEntrypoints("envoy/authz/allow").WithOutput(&packed)
	if err := c.Build(t.Context()); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "b.tar.gz")
	if err := os.WriteFile(name, packed.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	a := good(t, opened(t, authz.OPAPolicy{Path: name}, Options{}))
	for path, want := range map[string]bool{"/people": true, "/service-1": false, "/": false} {
		if got, err := a.Ask(t.Context(), asked("GET", path, guest, "")); err != nil || got.Allowed != want {
			t.Errorf("%s: %+v, %v, want %v", path, got, err, want)
		}
	}
}

// A ConfigMap that is mounted has every file twice: in a directory with a name
// that begins with two dots, and as a link through another such name.
func TestMountedConfigMapIsReadOnce(t *testing.T) {
	dir := t.TempDir()
	place(t, dir, map[string]string{
		"..2026_11_29/policy.rego": "package envoy.authz\ndefault allow := false\nallow if input.parsed_path[0] == data.open\n",
		"..2026_11_29/data.json":   `{"open": "a"}`,
	})
	for link, to := range map[string]string{"..data": "..2026_11_29", "policy.rego": "..data/policy.rego", "data.json": "..data/data.json"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, link, filepath.Join(dir, "policy.rego")} {
		a := good(t, opened(t, authz.OPAPolicy{Path: path}, Options{}))
		if data := path != filepath.Join(dir, "policy.rego"); opens(t, a, "/a") != data || opens(t, a, "/b") {
			t.Errorf("%s decides otherwise", path)
		}
	}
	place(t, dir, map[string]string{".manifest": `{"revision": "r1"}`})
	if a := good(t, opened(t, authz.OPAPolicy{Path: dir}, Options{})); !opens(t, a, "/a") || a.Status().Revision != "r1" {
		t.Errorf("as a bundle it decides otherwise: %+v", a.Status())
	}
}

func TestConfigMapsMayHoldData(t *testing.T) {
	a := good(t, opened(t, authz.OPAPolicy{Modules: map[string]string{
		"a.rego": "package envoy.authz\nimport data.roles\ndefault allow := false\nallow if roles.open(input.parsed_path[0])\n",
		"b.rego": "package roles\nopen(x) if x in data.names\n",
		"c.yaml": "names: [a, b]", "d.json": `{"more": 1}`,
	}}, Options{}))
	if !opens(t, a, "/b") || opens(t, a, "/c") {
		t.Error("it decides otherwise")
	}
}

func TestErrorsAreLocated(t *testing.T) {
	dir := t.TempDir()
	place(t, dir, map[string]string{
		"broken/broken.rego": "package envoy.authz\n\nallow := true if {\n",
		"data/p.rego":        "package envoy.authz\nallow := true\n", "data/a.json": `{"x": 1}`, "data/b.yaml": "x: 2",
		"list/p.rego": "package envoy.authz\nallow := true\n", "list/a.json": `[]`,
		"text/p.rego": "package envoy.authz\nallow := true\n", "text/a.json": `{`,
		"bundle/.manifest": `{"roots": ["a"]}`, "bundle/p.rego": "package envoy.authz\n\n\nallow := {\n",
		"roots/.manifest": `{"roots": ["a"]}`, "roots/p.rego": "package envoy.authz\nallow := true\n",
		"empty/empty.rego": "",
	})
	at := func(name string) authz.OPAPolicy { return authz.OPAPolicy{Path: filepath.Join(dir, name)} }
	for name, x := range map[string]struct {
		p    authz.OPAPolicy
		want []string
	}{
		"syntax":        {at("broken"), []string{"[name=x].opa.path: ", "broken.rego:4:1: "}},
		"in a bundle":   {at("bundle"), []string{"p.rego:5:1: "}},
		"roots":         {at("roots"), []string{"manifest roots [a]"}},
		"two documents": {at("data"), []string{"b.yaml: data.x is in another file"}},
		"a list":        {at("list"), []string{"a.json: data is an object, and this is an array"}},
		"no JSON":       {at("text"), []string{"a.json: "}},
		"no content":    {at("empty"), []string{"empty.rego:1:1: empty module"}},
		"no file":       {at("none"), []string{"none: no such file"}},
		"no Rego":       {authz.OPAPolicy{Path: t.TempDir()}, []string{"there is no Rego in it"}},
		"a function":    {module("allow if nothing.known(1)"), []string{"opa.configMap: default/rego: p.rego:2:10: undefined function nothing.known"}},
		"two errors":    {module("allow if a\nallow if b"), []string{"p.rego:2:10: var a is unsafe", "p.rego:3:10: var b is unsafe"}},
		"two files":     {authz.OPAPolicy{Modules: map[string]string{"a.rego": "package a\nx", "b.rego": "package b\nx"}}, []string{"a.rego:2:1: ", "b.rego:2:1: "}},
		"another rule":  {module("deny := true"), []string{"no rule is called data.envoy.authz.allow"}},
		"the network":   {module(`allow if http.send({"url": "http://x/"}).status_code == 200`), []string{"p.rego:2:10: undefined function http.send: a policy in this process cannot reach the network"}},
		"names":         {module(`allow if net.lookup_ip_addr("x")`), []string{"p.rego:2:10: undefined function net.lookup_ip_addr: a policy"}},
	} {
		a := opened(t, x.p, Options{})
		err := a.Status().Err
		for _, want := range x.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", name, err, want)
			}
		}
	}
}

func TestManyErrorsAreNotAllTold(t *testing.T) {
	a := opened(t, module(strings.Repeat("allow if nobody\n", 100)), Options{})
	if err := a.Status().Err; err == nil || strings.Count(err.Error(), "; ") != maxErrors || strings.Contains(err.Error(), "\n") {
		t.Errorf("the error is %v", err)
	}
}

// Of a schema in the request a reference elsewhere would be followed.
func TestSchemasAreNotFetched(t *testing.T) {
	a := good(t, opened(t, module(`allow if json.verify_schema({"$ref": "http://127.0.0.1:1/x"})[0]
reason := json.verify_schema({"$ref": "http://127.0.0.1:1/x"})[1]
default allow := false`), Options{}))
	if opens(t, a, "/") {
		t.Error("the schema is good")
	}
	b := good(t, opened(t, authz.OPAPolicy{Modules: a.provider.OPA.Modules, Decision: "envoy/authz/reason"}, Options{}))
	p, err := b.policy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := p.decision.Eval(t.Context(), nil); err != nil || !strings.Contains(got.(string), "loading disabled") {
		t.Errorf("the reason is %v, %v", got, err)
	}
}
