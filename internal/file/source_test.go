package file

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A harness runs a Source over a directory.
type harness struct {
	testing.TB
	dir     string
	store   *config.Store
	source  *Source
	reports chan Report
	log     *logBuffer
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs a Source on path, which is in dir, and waits for its first report.
func start(t *testing.T, dir, path string, o Options) (*harness, Report) {
	t.Helper()
	h := &harness{TB: t, dir: dir, store: config.NewStore(config.Options{}), reports: make(chan Report, 100), log: &logBuffer{}}
	o.Path, o.OnRead = path, func(r Report) { h.reports <- r }
	o.Manifest.ByLabel = true
	o.Logger = slog.New(slog.NewTextHandler(h.log, nil))
	h.source = New(o)
	done := make(chan error, 1)
	ctx := t.Context() // ends before Cleanup
	go func() { done <- h.source.Run(ctx, h.store) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	r := h.next()
	<-h.store.Ready()
	return h, r
}

// next waits for the next report.
func (h *harness) next() Report {
	h.Helper()
	select {
	case r := <-h.reports:
		return r
	case <-time.After(10 * time.Second):
		h.Fatal("nothing was read")
		return Report{}
	}
}

// until waits for a report after which ok holds: one change of files may be
// seen as several.
func (h *harness) until(what string, ok func(Report) bool) Report {
	h.Helper()
	for {
		r := h.next()
		if ok(r) {
			return r
		}
		h.Logf("waiting for %s: %v", what, texts(r))
	}
}

func (h *harness) write(name, text string) {
	h.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o644); err != nil {
		h.Fatal(err)
	}
}

// replace writes a file as careful programs do.
func (h *harness) replace(name, text string) {
	h.Helper()
	h.write(name+".tmp", text)
	if err := os.Rename(filepath.Join(h.dir, name+".tmp"), filepath.Join(h.dir, name)); err != nil {
		h.Fatal(err)
	}
}

func (h *harness) names() []string {
	var out []string
	for _, w := range h.store.Snapshot().Local("n1") {
		out = append(out, w.Name+":"+w.Addresses[0].String())
	}
	slices.Sort(out)
	return out
}

func (h *harness) want(want ...string) {
	h.Helper()
	if got := h.names(); !slices.Equal(got, want) {
		h.Errorf("got %v, want %v", got, want)
	}
}

func (h *harness) has(want ...string) func(Report) bool {
	return func(Report) bool { return slices.Equal(h.names(), want) }
}

func texts(r Report) []string {
	var out []string
	for _, p := range r.Problems {
		out = append(out, p.Err.Error())
	}
	return out
}

func pod(name, ip string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\nspec: {nodeName: n1, containers: []}\nstatus: {podIP: " + ip + ", conditions: [{type: Ready, status: \"True\"}]}\n"
}

func put(t testing.TB, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestDirectoryIsFollowed(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "a.yaml", pod("a", "10.0.0.1")+"---\n"+pod("b", "10.0.0.2"))
	put(t, dir, "notes.txt", "not: a manifest")
	put(t, dir, ".hidden.yaml", "not a manifest")
	h, r := start(t, dir, dir, Options{})
	h.want("a:10.0.0.1", "b:10.0.0.2")
	if len(r.Problems) != 0 {
		t.Errorf("problems: %v", texts(r))
	}

	h.write("c.json", `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "c"}, "spec": {"nodeName": "n1"}, "status": {"podIP": "10.0.0.3", "conditions": [{"type": "Ready", "status": "True"}]}}`)
	h.until("a new file", h.has("a:10.0.0.1", "b:10.0.0.2", "c:10.0.0.3"))

	h.write("a.yaml", pod("a", "10.0.0.9")) // in place, and one object less
	h.until("an edit in place", h.has("a:10.0.0.9", "c:10.0.0.3"))

	h.replace("a.yaml", pod("a", "10.0.0.8"))
	h.until("a rename", h.has("a:10.0.0.8", "c:10.0.0.3"))

	if err := os.Remove(filepath.Join(dir, "c.json")); err != nil {
		t.Fatal(err)
	}
	h.until("a removal", h.has("a:10.0.0.8"))
}

func TestBrokenFileKeepsItsObjects(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "a.yaml", pod("a", "10.0.0.1")+"---\n"+pod("b", "10.0.0.2"))
	h, _ := start(t, dir, dir, Options{})

	h.replace("a.yaml", pod("a", "10.0.0.7")+"---\nkind: [\n")
	r := h.until("the broken file", h.has("a:10.0.0.7", "b:10.0.0.2"))
	if got := texts(r); len(got) != 1 || !strings.Contains(got[0], "a.yaml:7: not YAML: ") {
		t.Errorf("problems: %v", got)
	}

	// A refused object keeps its last good version.
	h.replace("a.yaml", pod("a", "nowhere")+"---\n"+pod("b", "10.0.0.2"))
	r = h.until("the refused object", func(r Report) bool { return len(r.Problems) == 1 && r.Problems[0].Err.Object.Name == "a" })
	h.want("a:10.0.0.7", "b:10.0.0.2")
	if got := texts(r); len(got) != 1 || !strings.Contains(got[0], `a.yaml:5: Pod default/a: status.podIP: "nowhere" is not an IP address`) {
		t.Errorf("problems: %v", got)
	}
	if got := h.source.Problems(); len(got) != 1 || got[0].Since.IsZero() {
		t.Errorf("problems: %v", got)
	}
	if got := h.store.Rejected(); len(got) != 1 {
		t.Errorf("rejected: %v", got)
	}

	h.replace("a.yaml", pod("a", "10.0.0.7")+"---\n"+pod("b", "10.0.0.2"))
	h.until("the mended file", func(r Report) bool { return len(r.Problems) == 0 })
	if got := h.store.Rejected(); len(got) != 0 {
		t.Errorf("rejected: %v", got)
	}
	if got := strings.Count(h.log.String(), "nowhere"); got != 1 {
		t.Errorf("the refusal was logged %d times", got)
	}
}

func TestObjectInTwoFilesIsAnError(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "m.yaml", pod("a", "10.0.0.1")+"---\n"+pod("a", "10.0.0.9"))
	h, r := start(t, dir, dir, Options{})
	h.want("a:10.0.0.1")
	if got := texts(r); len(got) != 1 || !strings.Contains(got[0], "m.yaml:7: Pod default/a: is also in "+filepath.Join(dir, "m.yaml")+":1") {
		t.Errorf("problems: %v", got)
	}
	h.replace("m.yaml", pod("a", "10.0.0.1"))
	h.until("one of each", func(r Report) bool { return len(r.Problems) == 0 })

	// The version in force stays, whatever the order of names.
	h.replace("b.yaml", pod("a", "10.0.0.2"))
	r = h.until("two files", func(r Report) bool { return len(r.Problems) == 1 })
	h.want("a:10.0.0.1")
	if got := texts(r); !strings.Contains(got[0], "b.yaml:1: Pod default/a: is also in "+filepath.Join(dir, "m.yaml")+":1") {
		t.Errorf("problems: %v", got)
	}
	if err := os.Remove(filepath.Join(dir, "m.yaml")); err != nil {
		t.Fatal(err)
	}
	h.until("the other takes its place", h.has("a:10.0.0.2"))
}

func TestConfigMapMountIsFollowed(t *testing.T) {
	dir := t.TempDir()
	version := func(n, text string) {
		if err := os.Mkdir(filepath.Join(dir, n), 0o755); err != nil {
			t.Fatal(err)
		}
		put(t, filepath.Join(dir, n), "a.yaml", text)
		if err := os.Symlink(n, filepath.Join(dir, "..tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	version("..v1", pod("a", "10.0.0.1"))
	if err := os.Symlink("..data/a.yaml", filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	h, _ := start(t, dir, dir, Options{})
	h.want("a:10.0.0.1")
	version("..v2", pod("a", "10.0.0.2"))
	h.until("the swap", h.has("a:10.0.0.2"))
}

func TestSingleFileIsFollowed(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "mesh.conf", pod("a", "10.0.0.1"))
	h, _ := start(t, dir, filepath.Join(dir, "mesh.conf"), Options{})
	h.want("a:10.0.0.1")
	h.replace("mesh.conf", pod("a", "10.0.0.2"))
	h.until("a rename", h.has("a:10.0.0.2"))

	// Gone: nothing changes but that it is said.
	if err := os.Rename(filepath.Join(dir, "mesh.conf"), filepath.Join(dir, "away")); err != nil {
		t.Fatal(err)
	}
	h.until("the file is missed", func(r Report) bool { return len(r.Problems) == 1 })
	h.want("a:10.0.0.2")
	if err := os.Rename(filepath.Join(dir, "away"), filepath.Join(dir, "mesh.conf")); err != nil {
		t.Fatal(err)
	}
	h.until("the file is back", func(r Report) bool { return len(r.Problems) == 0 })
}

func TestEmptyFileIsNotBelievedAtOnce(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "a.yaml")
	put(t, dir, "a.yaml", pod("a", "10.0.0.1"))
	s, store := New(Options{Path: dir}), config.NewStore(config.Options{})
	h := &harness{TB: t, store: store}
	look := func(want bool) {
		t.Helper()
		if again := s.look(store, []string{name}, map[string]bool{"a.yaml": true}, false); again != want {
			t.Errorf("look again: %v, want %v", again, want)
		}
	}
	look(false)
	h.want("a:10.0.0.1")
	put(t, dir, "a.yaml", "")
	look(true)
	h.want("a:10.0.0.1")
	put(t, dir, "a.yaml", pod("a", "10.0.0.1")) // it was only being written
	look(false)
	h.want("a:10.0.0.1")
	put(t, dir, "a.yaml", "")
	look(true)
	look(false)
	h.want()
}

func TestPollingFindsWhatWasNotSaid(t *testing.T) {
	dir := t.TempDir()
	target := t.TempDir() // not watched
	put(t, target, "real.yaml", pod("a", "10.0.0.1"))
	if err := os.Symlink(filepath.Join(target, "real.yaml"), filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	h, _ := start(t, dir, dir, Options{Poll: 5 * time.Millisecond})
	put(t, target, "real.yaml", pod("a", "10.0.0.22"))
	h.until("the poll", h.has("a:10.0.0.22"))
}

func TestUnknownKindsAreReportedOnce(t *testing.T) {
	dir := t.TempDir()
	d := "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n---\n"
	put(t, dir, "a.yaml", d+d+pod("a", "10.0.0.1"))
	h, r := start(t, dir, dir, Options{})
	if len(r.Problems) != 0 {
		t.Errorf("problems: %v", texts(r))
	}
	h.replace("a.yaml", d+pod("a", "10.0.0.2"))
	h.until("the edit", h.has("a:10.0.0.2"))
	if got := strings.Count(h.log.String(), "apps/v1 Deployment"); got != 1 {
		t.Errorf("reported %d times:\n%s", got, h.log)
	}
}

func TestPathMustExistAtFirst(t *testing.T) {
	s := New(Options{Path: filepath.Join(t.TempDir(), "nothing")})
	err := s.Run(t.Context(), config.NewStore(config.Options{}))
	if err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %v", err)
	}
}

func TestIngressIsAtHand(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "a.yaml", "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: g, namespace: d}, spec: {gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}]}}")
	h, _ := start(t, dir, dir, Options{})
	if got := h.source.Ingress(mesh.Key{Kind: "Gateway", Namespace: "d", Name: "g"}); got == nil || len(got.Listeners) != 1 {
		t.Errorf("got %v", got)
	}
}
