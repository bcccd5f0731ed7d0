package arch

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/waystone-mesh/waystone"

// imports lists, for every package, which packages of ours it may import. It is
// a list and not an order because "lower" is too weak: authz stands above hbone
// and must not touch it. "*" is anything.
var imports = map[string]string{
	// Leaves: they name things, or do one.
	"internal/flow":     "internal/bufs",
	"internal/bufs":     "",
	"internal/watch":    "",
	"internal/istiod":   "",
	"internal/netns":    "",
	"internal/identity": "internal/identity/caapi internal/istiod internal/watch",
	"internal/mesh":     "internal/identity",
	"internal/l7":       "internal/bufs",

	// They move bytes: no policy, no configuration, no metrics.
	"internal/h1":     "internal/bufs internal/flow internal/l7",
	"internal/h2":     "internal/bufs internal/flow internal/l7",
	"internal/record": "",
	"internal/loop":   "internal/bufs internal/flow internal/record",
	"internal/inner":  "internal/flow internal/h2 internal/l7 internal/loop",
	"internal/memnet": "",
	"internal/hbone":  "internal/bufs internal/flow internal/h2 internal/identity internal/l7 internal/loop internal/mesh",

	// They decide: pure, and strangers to one another.
	"authz":           "internal/identity internal/l7 internal/mesh",
	"authz/rbac":      "authz internal/identity internal/l7 internal/mesh",
	"authz/rego":      "authz internal/identity internal/l7 internal/mesh internal/opa",
	"authz/authztest": "authz internal/identity internal/l7",
	"authz/lint":      "authz internal/identity",
	"authz/jwt":       "authz internal/l7 internal/mesh",
	"routing":         "internal/l7 internal/mesh",
	"telemetry":       "internal/identity internal/mesh",

	// It decides likewise, by what another control plane has translated.
	"authz/jwt/jwtauthn": "authz authz/jwt",

	// It knows, and they read and feed it.
	"internal/config":   "authz authz/jwt internal/identity internal/mesh routing",
	"internal/manifest": "authz authz/jwt internal/config internal/identity internal/l7 internal/mesh routing",
	"internal/file":     "authz internal/config internal/identity internal/manifest internal/mesh internal/watch routing",
	"internal/admin":    "telemetry",
	"internal/xds":      "authz internal/config internal/identity internal/istiod internal/mesh internal/xds/workloadapi",

	// They are what is on the wire: generated.
	"internal/identity/caapi":  "",
	"internal/xds/workloadapi": "",
	"internal/zds/zdsapi":      "",

	// It remembers what was decided.
	"internal/decisions": "authz internal/identity",

	// They talk to the world, on goroutines.
	"internal/zds":     "internal/netns internal/zds/zdsapi",
	"internal/capture": "internal/netns",

	// They ask the Kubernetes API, or are it.
	"internal/kube":          "",
	"internal/kube/kubetest": "internal/kube",
	"internal/enroll":        "internal/capture internal/config internal/kube internal/mesh internal/netns internal/zds",

	"internal/extauthz": "authz internal/identity internal/l7",
	"internal/jwks":     "authz/jwt",
	"internal/opa":      "authz internal/extauthz internal/identity internal/watch",
	"internal/dns":      "internal/config internal/mesh telemetry",

	// They carry.
	"waypoint": "authz authz/jwt routing telemetry internal/bufs internal/config internal/decisions internal/extauthz internal/flow internal/h1 internal/h2 internal/hbone internal/identity internal/inner internal/l7 internal/loop internal/mesh",
	"ztunnel":  "authz telemetry internal/bufs internal/config internal/dns internal/flow internal/hbone internal/h2 internal/identity internal/l7 internal/loop internal/mesh internal/netns internal/zds",

	// They wire.
	"cmd/waypoint":                 "*",
	"cmd/ztunnel":                  "*",
	"cmd/waystone":                 "*",
	"internal/dump":                "authz authz/jwt internal/config internal/identity internal/mesh routing",
	"internal/policy":              "authz authz/jwt authz/lint authz/rego internal/config internal/dump internal/extauthz internal/identity internal/l7 internal/manifest internal/mesh internal/opa routing",
	"internal/flags":               "",
	"internal/program":             "telemetry internal/admin internal/bufs internal/config internal/decisions internal/dump internal/file internal/flags internal/h2 internal/identity internal/istiod internal/loop internal/manifest internal/mesh",
	"internal/program/programtest": "internal/flags",
	"internal/waypointcmd":         "*",
	"internal/ztunnelcmd":          "telemetry ztunnel internal/capture internal/config internal/dns internal/dump internal/enroll internal/flags internal/identity internal/istiod internal/kube internal/manifest internal/mesh internal/netns internal/program internal/xds internal/zds", // not what only a waypoint needs: OPA weighs as much as the rest
	"internal/zds/zdstest":         "internal/zds/zdsapi",
	"internal/nettest":             "ztunnel internal/capture internal/meshtest internal/netns internal/zds internal/zds/zdstest",
	"internal/meshtest":            "*",
	"internal/script":              "",
	"internal/arch":                "",
	"internal/bench":               "internal/bufs internal/flow internal/h1 internal/h2 internal/hbone internal/identity internal/inner internal/l7 internal/loop internal/mesh",
	"internal/demo":                "*",
	"examples/bookinfo":            "internal/config internal/file internal/l7 internal/manifest internal/mesh routing",
	"examples/bookinfo/service":    "examples/bookinfo",
}

// homes lists the packages that may import a heavy dependency, by import path
// prefix. cmd is never listed: a main that needs a library directly is doing
// somebody else's work.
var homes = map[string]string{
	"github.com/open-policy-agent/": "internal/opa",
	"github.com/prometheus/":        "telemetry internal/admin",
	"go.opentelemetry.io/":          "telemetry",
	"github.com/envoyproxy/":        "authz/jwt/jwtauthn authz/rbac internal/extauthz internal/xds",
	"google.golang.org/grpc":        "internal/extauthz internal/identity internal/istiod telemetry internal/xds",
	"k8s.io/":                       "internal/kube/kubetest internal/manifest",
	"istio.io/":                     "internal/manifest",
	"sigs.k8s.io/":                  "internal/manifest",
	"github.com/spiffe/go-spiffe":   "internal/identity",
	"github.com/go-jose/":           "authz/jwt",
	"github.com/HdrHistogram/":      "internal/bench",
	"github.com/google/nftables":    "internal/capture",
	"github.com/vishvananda/":       "internal/capture internal/nettest",
	"golang.org/x/sys":              "internal/bench internal/capture internal/netns internal/nettest internal/zds internal/zds/zdstest",
	"golang.org/x/crypto":           "internal/record",
	"golang.org/x/net/http2":        "internal/h2 internal/meshtest", // in tests, the peer that is not ours
	"github.com/fsnotify/fsnotify":  "internal/watch",
	"github.com/miekg/dns":          "internal/dns",
	"net/http":                      "internal/admin internal/demo internal/extauthz internal/jwks internal/kube internal/kube/kubetest internal/meshtest internal/opa internal/policy examples/bookinfo", // jwks fetches key sets
	"github.com/spf13/":             "cmd/waystone internal/flags internal/program internal/program/programtest internal/waypointcmd internal/ztunnelcmd",
}

// A file is one Go source file of the module.
type file struct {
	name  string // slash-separated, relative to the module root
	pkg   string // its directory
	ast   *ast.File
	lines int
	test  bool
}

func sources(t *testing.T) []file {
	t.Helper()
	root := filepath.Join("..", "..")
	var files []file
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, name)
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if rel != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || rel == "e2e") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		src, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ParseComments)
		if err != nil {
			return err
		}
		files = append(files, file{rel, path.Dir(rel), f, bytes.Count(src, []byte("\n")), strings.HasSuffix(rel, "_test.go")})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("found %d source files: the walk is broken", len(files))
	}
	return files
}

func TestImports(t *testing.T) {
	for _, f := range sources(t) {
		allowed, known := imports[f.pkg]
		if !known {
			t.Errorf("%s: package %s is not in the map: say what it may import", f.name, f.pkg)
			continue
		}
		if f.test || allowed == "*" {
			continue
		}
		list := strings.Fields(allowed)
		for _, imp := range f.ast.Imports {
			p, _ := strconv.Unquote(imp.Path.Value)
			rel, ours := strings.CutPrefix(p, module+"/")
			if ours && !slices.Contains(list, rel) {
				t.Errorf("%s imports %s, which the architecture forbids", f.name, rel)
			}
		}
	}
}

func TestHeavyDependenciesHaveOneHome(t *testing.T) {
	for _, f := range sources(t) {
		if f.test {
			continue
		}
		for _, imp := range f.ast.Imports {
			p, _ := strconv.Unquote(imp.Path.Value)
			for prefix, home := range homes {
				if p != prefix && !strings.HasPrefix(p, strings.TrimSuffix(prefix, "/")+"/") {
					continue
				}
				if !slices.Contains(strings.Fields(home), f.pkg) {
					t.Errorf("%s imports %s, whose home is %s", f.name, p, home)
				}
			}
		}
	}
}

func TestPackagesSayWhatTheyAreFor(t *testing.T) {
	comments := map[string]int{}
	for _, f := range sources(t) {
		if f.test {
			continue
		}
		comments[f.pkg] += 0
		if f.ast.Doc != nil {
			comments[f.pkg]++
		}
	}
	for pkg, n := range comments {
		if n != 1 {
			t.Errorf("package %s has %d package comments, want 1", pkg, n)
		}
	}
}

// TestFilesAreOneIdea holds files to 400 lines, and those of h2, where one state
// machine meets one long RFC, to 600. Nobody reads what is generated.
func TestFilesAreOneIdea(t *testing.T) {
	for _, f := range sources(t) {
		limit := 400
		if f.pkg == "internal/h2" {
			limit = 600
		}
		if !f.test && f.lines > limit && !ast.IsGenerated(f.ast) {
			t.Errorf("%s has %d lines, more than %d", f.name, f.lines, limit)
		}
	}
}

func TestNoPackageIsCalledUtil(t *testing.T) {
	for _, f := range sources(t) {
		for _, bad := range []string{"util", "utils", "common", "types", "helpers", "pkg"} {
			if path.Base(f.pkg) == bad {
				t.Errorf("%s: a package called %s says nothing about what is in it", f.name, bad)
			}
		}
	}
}

// TestTestsDoNotSleep holds tests to synctest, channels and injected clocks.
func TestTestsDoNotSleep(t *testing.T) {
	for _, f := range sources(t) {
		if !f.test {
			continue
		}
		bubble := false // a sleep inside a synctest bubble takes no time
		for _, imp := range f.ast.Imports {
			bubble = bubble || imp.Path.Value == `"testing/synctest"`
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || bubble {
				return true
			}
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Sleep" {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" {
					t.Errorf("%s sleeps: wait for what it is waiting for", f.name)
				}
			}
			return true
		})
	}
}
