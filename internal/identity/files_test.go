package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A logBuffer is what was logged.
type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
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

func put(tb testing.TB, path string, text []byte) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		tb.Fatal(err)
	}
}

func putPair(tb testing.TB, dir string, c *tls.Certificate) {
	tb.Helper()
	cert, key := pemOf(tb, c)
	put(tb, filepath.Join(dir, "cert.pem"), cert)
	put(tb, filepath.Join(dir, "key.pem"), key)
}

func rootPEM(ca *testCA) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

// until waits until ok holds after one of the source's looks at its directory.
func until(t *testing.T, looks <-chan struct{}, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	for !ok() {
		select {
		case <-looks:
		case <-deadline.C:
			t.Fatalf("never: %s", what)
		}
	}
}

// openWatched is openFiles with a channel that tells of every look.
func openWatched(t *testing.T, dir string, log io.Writer) (*Files, <-chan struct{}) {
	t.Helper()
	looks := make(chan struct{}, 1)
	src := open(t, "files:"+dir, Options{
		Log: slog.New(slog.NewTextHandler(log, nil)),
		lookedForTest: func() {
			select {
			case looks <- struct{}{}:
			default:
			}
		},
	})
	return src.(*Files), looks
}

func TestFilesReload(t *testing.T) {
	ca, next := newTestCA(t), newTestCA(t)
	dir, ctx := t.TempDir(), context.Background()
	pair := filepath.Join(dir, "default", "web")
	first, second := ca.leaf(web, nil), next.leaf(web, nil)
	put(t, filepath.Join(dir, "root-cert.pem"), rootPEM(ca))
	putPair(t, pair, first)
	var log logBuffer
	src, looks := openWatched(t, dir, &log)

	serial := func(id ID) string {
		c, err := src.Certificate(ctx, id)
		if err != nil {
			return err.Error()
		}
		return c.Leaf.SerialNumber.String()
	}
	if got, want := serial(web), first.Leaf.SerialNumber.String(); got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	if got := serial(items); !strings.Contains(got, "no such directory") || !strings.Contains(got, items.String()) {
		t.Errorf("of an unknown identity: %s", got)
	}

	// A key that is not the certificate's, then nonsense: the last good pair stays.
	_, wrong := pemOf(t, second)
	put(t, filepath.Join(pair, "key.pem"), wrong)
	until(t, looks, "the mismatch is logged", func() bool { return strings.Contains(log.String(), "private key does not match") })
	put(t, filepath.Join(pair, "cert.pem"), []byte("nonsense"))
	until(t, looks, "the nonsense is logged", func() bool { return strings.Contains(log.String(), "failed to find any PEM data") })
	if got, want := serial(web), first.Leaf.SerialNumber.String(); got != want {
		t.Errorf("after broken files got %s, want %s", got, want)
	}

	putPair(t, pair, second)
	until(t, looks, "the new pair is served", func() bool { return serial(web) == second.Leaf.SerialNumber.String() })

	// Roots beside the identity, a new identity in a new directory, one that goes.
	before := len(src.Roots().Bundles()[0].X509Authorities())
	put(t, filepath.Join(pair, "root-cert.pem"), rootPEM(next))
	until(t, looks, "the second root is trusted", func() bool { return len(src.Roots().Bundles()[0].X509Authorities()) == before+1 })
	more := ca.leaf(items, nil)
	putPair(t, filepath.Join(dir, "default", "items"), more)
	until(t, looks, "the new identity is served", func() bool { return serial(items) == more.Leaf.SerialNumber.String() })
	if err := os.RemoveAll(pair); err != nil {
		t.Fatal(err)
	}
	until(t, looks, "the old identity is gone", func() bool { return strings.Contains(serial(web), "no such directory") })

	// The roots vanish, or turn bad: what they said stays.
	put(t, filepath.Join(dir, "root-cert.pem"), []byte("-----BEGIN nothing"))
	until(t, looks, "bad roots are logged", func() bool { return strings.Count(log.String(), "root-cert.pem") > 1 })
	if src.Roots().Len() == 0 {
		t.Error("bad roots were taken")
	}
	for _, c := range []*tls.Certificate{first, second, more} {
		noSecret(t, log.String(), c)
	}
}

func TestFilesRefuse(t *testing.T) {
	ca := newTestCA(t)
	for _, tt := range []struct {
		name string
		make func(t *testing.T, dir string)
		want string
	}{
		{"the certificate of another", func(t *testing.T, dir string) { putPair(t, dir, ca.leaf(items, nil)) },
			"the certificate is for spiffe://cluster.local/ns/default/sa/items, want spiffe://cluster.local/ns/default/sa/web"},
		{"another trust domain", func(t *testing.T, dir string) { putPair(t, dir, ca.leaf(ID{"x", "default", "web"}, nil)) }, "spiffe://x/"},
		{"expired", func(t *testing.T, dir string) {
			putPair(t, dir, ca.leaf(web, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }))
		}, "expired"},
		{"no key", func(t *testing.T, dir string) {
			cert, _ := pemOf(t, ca.leaf(web, nil))
			put(t, filepath.Join(dir, "cert.pem"), cert)
		}, "key.pem"},
		{"no certificate", func(t *testing.T, dir string) { put(t, filepath.Join(dir, "key.pem"), nil) }, "cert.pem"},
		{"no URI", func(t *testing.T, dir string) {
			putPair(t, dir, ca.leaf(web, func(c *x509.Certificate) { c.URIs = nil }))
		}, "no URI SAN"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, filepath.Join(dir, "root-cert.pem"), rootPEM(ca))
			tt.make(t, filepath.Join(dir, "default", "web"))
			var log logBuffer
			src, _ := openWatched(t, dir, &log)
			_, err := src.Certificate(context.Background(), web)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), dir) {
				t.Errorf("got %v, want %q and the directory in it", err, tt.want)
			}
			if !strings.Contains(log.String(), tt.want) {
				t.Errorf("logged %q, want %q in it", log.String(), tt.want)
			}
		})
	}
	t.Run("no roots", func(t *testing.T) {
		if _, err := Open("files:"+t.TempDir(), Options{}); err == nil || !strings.Contains(err.Error(), "root-cert.pem") {
			t.Errorf("got %v", err)
		}
	})
}

// TestFilesThatAVolumeSwaps is a mounted Secret: the files are links into a
// directory that is replaced whole by renaming a link.
func TestFilesThatAVolumeSwaps(t *testing.T) {
	ca := newTestCA(t)
	dir := t.TempDir()
	pair := filepath.Join(dir, "default", "web")
	put(t, filepath.Join(dir, "root-cert.pem"), rootPEM(ca))
	generation := func(name string, c *tls.Certificate) {
		cert, key := pemOf(t, c)
		put(t, filepath.Join(pair, name, "cert-chain.pem"), append(cert, rootPEM(ca)...))
		put(t, filepath.Join(pair, name, "key.pem"), key)
		tmp := filepath.Join(pair, "..data_tmp")
		if err := os.Symlink(name, tmp); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, filepath.Join(pair, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	first, second := ca.leaf(web, nil), ca.leaf(web, nil)
	generation("..1", first)
	for _, name := range []string{"cert-chain.pem", "key.pem"} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(pair, name)); err != nil {
			t.Fatal(err)
		}
	}
	var log logBuffer
	src, looks := openWatched(t, dir, &log)
	c, err := src.Certificate(context.Background(), web)
	if err != nil || len(c.Certificate) != 2 {
		t.Fatalf("%v, %v", c, err)
	}
	generation("..2", second)
	until(t, looks, "the second generation is served", func() bool {
		c, err := src.Certificate(context.Background(), web)
		return err == nil && c.Leaf.SerialNumber.Cmp(second.Leaf.SerialNumber) == 0
	})
}
