package waypointcmd

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/program"
	"github.com/waystone-mesh/waystone/internal/program/programtest"
	"github.com/waystone-mesh/waystone/telemetry"
)

// TestReadinessWaitsForKeys follows an issuer that answers and one that does not:
// who waits for both waits no longer than its patience.
func TestReadinessWaitsForKeys(t *testing.T) {
	release := make(chan struct{})
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/silent" {
			<-release
		}
		_, _ = w.Write([]byte(`{"keys":[{"kty":"oct","k":"AAAA","kid":"one"}]}`))
	}))
	defer issuer.Close()
	defer close(release)
	for _, x := range []struct {
		path     string
		patience time.Duration
		keys     int
	}{{"/keys", time.Minute, 1}, {"/silent", 10 * time.Millisecond, 0}} {
		_, args := programtest.Quiet(t)
		var o options
		o.Config, o.Identity, o.LogOutput, o.LogLevel, o.Loops, o.TrustDomain = args[1], args[3], os.DevNull, "info", 1, "td"
		p := program.New(t.Context(), &o.Options)
		if err := errors.Join(p.Report(telemetry.Options{Program: telemetry.Waypoint}), p.Know(config.Options{}, nil)); err != nil {
			t.Fatal(err)
		}
		k := follow(p, nil)
		k.patience = x.patience
		k.settle(p) // for nothing
		source := jwt.Source{URI: issuer.URL + x.path}
		k.Follow(map[jwt.Source]time.Duration{source: time.Minute})
		k.settle(p)
		if got := k.ring()[source]; (got != nil) != (x.keys > 0) || got != nil && got.Len() != x.keys {
			t.Errorf("%s: got %v, want %d keys", x.path, got, x.keys)
		}
		if pending := p.Ready.Pending(); len(pending) != 0 {
			t.Errorf("%s: still pending: %v", x.path, pending)
		}
		if err := p.Close(nil); err != nil {
			t.Errorf("%s: %v", x.path, err)
		}
	}
}

func TestRootsAreReadFromAFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.pem")
	for text, want := range map[string]string{
		"":      "holds no certificate in PEM",
		"hello": "holds no certificate in PEM",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := parseRoots(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
	if _, err := parseRoots(filepath.Join(dir, "none")); err == nil {
		t.Error("there is no such file")
	}
}
