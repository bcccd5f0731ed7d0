package identity

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func open(tb testing.TB, spec string, o Options) Source {
	tb.Helper()
	src, err := Open(spec, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = Close(src) })
	return src
}

func TestSelfIssuesAndRotates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		src := open(t, "self:"+dir, Options{Aliases: []string{"old.local"}})
		other := open(t, "self:"+dir, Options{}) // another process
		server := ServerConfig(src, items)
		client := ClientConfig(other, web, items)
		ctx := context.Background()

		first, err := src.Certificate(ctx, items)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Hour)
		if again, _ := src.Certificate(ctx, items); again != first {
			t.Error("renewed before half of its life")
		}
		for h := 11; h < 60; h += 7 {
			state, cerr, serr := shake(client, server)
			if cerr != nil || serr != nil {
				t.Fatalf("after %d h: client: %v, server: %v", h, cerr, serr)
			}
			if left := time.Until(state.PeerCertificates[0].NotAfter); left < 11*time.Hour {
				t.Errorf("after %d h: the client's certificate is good for %v", h, left)
			}
			time.Sleep(7 * time.Hour)
		}
		if again, _ := src.Certificate(ctx, items); again == first {
			t.Error("never renewed")
		}
		if !src.Roots().Has(spiffeid.RequireTrustDomainFromString("old.local")) {
			t.Error("no roots for the alias")
		}
	})
}

func TestSelfRefusesForeignIdentities(t *testing.T) {
	src := open(t, "self:"+t.TempDir(), Options{})
	for _, id := range []ID{{}, {"elsewhere", "a", "b"}, {"cluster.local", "", "b"}, {"cluster.local", "a/sa/x", "b"}, {"cluster.local", "a", "b?x"}} {
		if c, err := src.Certificate(context.Background(), id); err == nil {
			t.Errorf("issued %v for %+v", c.Leaf.URIs, id)
		}
	}
}

// TestSelfIsMadeOnce starts many sources at once in one directory, half of them
// in processes of their own, and has them all end up with one CA.
func TestSelfIsMadeOnce(t *testing.T) {
	if dir := os.Getenv("WAYSTONE_TEST_SELF"); dir != "" { // a child
		src, err := Open("self:"+dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("root:", rootOf(src))
		return
	}
	dir := filepath.Join(t.TempDir(), "made", "too")
	var mu sync.Mutex
	var got []string
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			src, err := Open("self:"+dir, Options{})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			got = append(got, rootOf(src))
		})
	}
	for range 4 {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0], "-test.run=^TestSelfIsMadeOnce$", "-test.v")
			cmd.Env = append(os.Environ(), "WAYSTONE_TEST_SELF="+dir)
			out, err := cmd.CombinedOutput()
			_, root, ok := strings.Cut(string(out), "root: ")
			if err != nil || !ok {
				t.Errorf("child: %v: %s", err, out)
				return
			}
			root, _, _ = strings.Cut(root, "\n")
			mu.Lock()
			defer mu.Unlock()
			got = append(got, root)
		})
	}
	wg.Wait()
	for _, root := range got {
		if root != got[0] {
			t.Errorf("got CAs %s and %s", root, got[0])
		}
	}
	fi, err := os.Stat(filepath.Join(dir, "ca.pem"))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("ca.pem: %v, %v, want mode 0600", fi.Mode(), err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, ".*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func rootOf(src Source) string {
	return fmt.Sprintf("%x", src.Roots().Bundles()[0].X509Authorities()[0].SerialNumber)
}

func TestSelfSaysWhatIsWrongWithItsCA(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ca.pem")
	for _, text := range []string{"", "nonsense", "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open("self:"+dir, Options{})
		if err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "c2VjcmV0") {
			t.Errorf("with %q: %v", text, err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		open(t, "self:"+dir, Options{})
		time.Sleep(11 * 365 * 24 * time.Hour)
		if _, err := Open("self:"+dir, Options{}); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("with an expired CA: %v", err)
		}
	})
}

func BenchmarkHandshake(b *testing.B) {
	src := open(b, "self:"+b.TempDir(), Options{})
	client, server := ClientConfig(src, web, items), ServerConfig(src, items)
	b.ReportAllocs()
	for b.Loop() {
		if _, cerr, serr := shake(client, server); cerr != nil || serr != nil {
			b.Fatal(cerr, serr)
		}
	}
}
