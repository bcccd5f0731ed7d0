package kube

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/waystone-mesh/waystone/internal/kube/kubetest"
)

func pod(name, node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{"app": name}},
		Spec:   corev1.PodSpec{NodeName: node, ServiceAccountName: "sa", HostNetwork: name == "host"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}, ContainerStatuses: []corev1.ContainerStatus{{ContainerID: "containerd://12"}}}}
}

// A rig follows the pods of node n1 in a bubble, and keeps what it was told.
type rig struct {
	*kubetest.Server
	told []string // "replace a b", "set a", "delete a"
	stop context.CancelFunc
	done chan error
}

func newRig(t *testing.T, s *kubetest.Server) *rig {
	t.Helper()
	c, err := New(Options{Server: "http://api", Transport: s})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Server: s, done: make(chan error, 1)}
	ctx, stop := context.WithCancel(t.Context())
	r.stop = stop
	go func() {
		r.done <- Follow(ctx, c, PodsOf("n1"), Follower[Pod]{
			Replace: func(all []Pod) {
				words := []string{"replace"}
				for _, p := range all {
					words = append(words, p.Metadata.Name)
				}
				r.told = append(r.told, strings.Join(words, " "))
			},
			Set:    func(p Pod) { r.told = append(r.told, "set "+p.Metadata.Name) },
			Delete: func(p Pod) { r.told = append(r.told, "delete "+p.Metadata.Name) },
		})
	}()
	synctest.Wait()
	return r
}

func (r *rig) expect(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	if !slices.Equal(r.told, want) {
		t.Errorf("told %q, want %q", r.told, want)
	}
	r.told = nil
}

func (r *rig) end(t *testing.T) {
	t.Helper()
	r.stop()
	if err := <-r.done; !errors.Is(err, context.Canceled) {
		t.Errorf("Follow returned %v", err)
	}
}

func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kubetest.New()
		s.Set(pod("a", "n1"))
		s.Set(pod("other", "n2"))
		r := newRig(t, s)
		r.expect(t, "replace a")
		s.Set(pod("b", "n1"))
		s.Set(pod("elsewhere", "n2"))
		s.Set(pod("b", "n1"))
		s.Delete(pod("a", "n1"))
		r.expect(t, "set b", "set b", "delete a")

		// A watch that ends is begun where it was.
		s.Requests()
		s.Cut()
		r.expect(t)
		s.Set(pod("c", "n1"))
		r.expect(t, "set c")
		if got := s.Requests(); !slices.Equal(got, []string{"watch /api/v1/pods"}) {
			t.Errorf("after the watch ended: %q", got)
		}
		r.end(t)
	})
}

func TestFollowListsAnewAfterGone(t *testing.T) {
	for _, how := range []string{"in the stream", "at once"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := kubetest.New()
				s.Set(pod("a", "n1"))
				r := newRig(t, s)
				r.expect(t, "replace a")
				s.Refuse(func(r *http.Request) int { return map[bool]int{true: http.StatusServiceUnavailable}[how == "at once"] })
				s.Cut()
				synctest.Wait()
				s.Swap(pod("a", "n1"), pod("b", "n1"))
				s.Refuse(nil)
				s.Set(pod("c", "n2")) // so that who watches looks
				time.Sleep(time.Minute)
				synctest.Wait()
				if !slices.Contains(r.told, "replace b") {
					t.Errorf("told %q, want all to be replaced", r.told)
				}
				r.told = nil
				s.Set(pod("d", "n1"))
				r.expect(t, "set d")
				r.end(t)
			})
		})
	}
}

// TestBookmarksCount: without them, a version of long ago would be asked for.
func TestBookmarksCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kubetest.New()
		r := newRig(t, s)
		r.expect(t, "replace")
		s.Bookmark()
		synctest.Wait()
		s.Forget()
		s.Requests()
		s.Cut()
		s.Set(pod("a", "n1"))
		r.expect(t, "set a")
		if got := s.Requests(); !slices.Equal(got, []string{"watch /api/v1/pods"}) {
			t.Errorf("asked %q, want no list", got)
		}
		r.end(t)
	})
}

func TestFollowBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kubetest.New()
		s.Refuse(func(*http.Request) int { return http.StatusForbidden })
		r := newRig(t, s)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := len(s.Requests()); n < 20 || n > 40 {
			t.Errorf("asked %d times in 10 min, want about 27", n)
		}
		s.Set(pod("a", "n1"))
		s.Refuse(nil)
		time.Sleep(40 * time.Second)
		r.expect(t, "replace a")
		// What follows a success is quick again.
		s.Cut()
		s.Set(pod("b", "n1"))
		time.Sleep(time.Second)
		r.expect(t, "set b")
		r.end(t)
	})
}

func TestListsComeByPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kubetest.New()
		for n := range 2*page + 1 {
			s.Set(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p" + string(rune(0x4e00+n))}, Spec: corev1.PodSpec{NodeName: "n1"}})
		}
		r := newRig(t, s)
		if got := s.Requests(); !slices.Equal(got, []string{"list /api/v1/pods", "list /api/v1/pods", "list /api/v1/pods", "watch /api/v1/pods"}) {
			t.Errorf("asked %q", got)
		}
		if len(r.told) != 1 || len(strings.Fields(r.told[0])) != 1+2*page+1 {
			t.Errorf("told %d times", len(r.told))
		}
		r.end(t)
	})
}

func TestWhatIsReadOfAPod(t *testing.T) {
	s := kubetest.New()
	s.Set(pod("host", "n1"))
	c, err := New(Options{Server: "http://api", Transport: s})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var p Pod
	Follow(ctx, c, PodsOf("n1"), Follower[Pod]{Replace: func(all []Pod) { p = all[0]; stop() }})
	if p.Metadata.Name != "host" || p.Metadata.Namespace != "shop" || p.Metadata.UID == "" || p.Metadata.Labels["app"] != "host" ||
		!p.Spec.HostNetwork || p.Spec.NodeName != "n1" || p.Spec.ServiceAccountName != "sa" ||
		p.Status.Phase != "Running" || p.Status.PodIP != "10.0.0.1" || len(p.Status.PodIPs) != 2 || p.Status.PodIPs[1].IP != "fd00::1" || p.Status.ContainerStatuses[0].ContainerID != "containerd://12" {
		t.Errorf("read %+v", p)
	}
}

func TestAnnotate(t *testing.T) {
	s := kubetest.New()
	p := pod("a", "n1")
	p.Annotations = map[string]string{"kept": "1", "gone": "2"}
	s.Set(p)
	c, err := New(Options{Server: "http://api", Transport: s})
	if err != nil {
		t.Fatal(err)
	}
	yes := "yes"
	if err := c.Annotate(t.Context(), "shop", "a", string(p.UID), map[string]*string{"new": &yes, "gone": nil}); err != nil {
		t.Fatal(err)
	}
	if got := s.Annotations("shop", "a"); len(got) != 2 || got["kept"] != "1" || got["new"] != "yes" {
		t.Errorf("annotations are %v", got)
	}
	if err := c.Annotate(t.Context(), "shop", "a", "another", map[string]*string{"new": nil}); !IsGone(err) {
		t.Errorf("of another pod: %v, want one that says so", err)
	}
	if err := c.Annotate(t.Context(), "shop", "b", "", nil); !Is(err, http.StatusNotFound) || !strings.Contains(err.Error(), "shop/b: 404 Not Found: no such pod") {
		t.Errorf("of none: %v", err)
	}
}

// A stream is a server whose watch says what the test has it say.
type stream string

func (s stream) RoundTrip(r *http.Request) (*http.Response, error) {
	body := `{"metadata":{"resourceVersion":"1"}}`
	if r.URL.Query().Get("watch") != "" {
		body = string(s)
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(body))}, nil
}

func watchOnce(s string) (told int, err error) {
	c, err := New(Options{Server: "http://api", Transport: stream(s)})
	if err != nil {
		return 0, err
	}
	count := func(Pod) { told++ }
	w := follow[Pod, *Pod]{c: c, r: PodsOf("n"), f: Follower[Pod]{Replace: func([]Pod) {}, Set: count, Delete: count}}
	return told, w.once(context.Background())
}

func TestMalformedEvents(t *testing.T) {
	for body, want := range map[string]string{
		"":                             "",
		"{":                            "unexpected EOF",
		"[]":                           "cannot unmarshal",
		"{}":                           "unexpected end of JSON",
		"x":                            "invalid character",
		`{"type":"ADDED","object":{}}`: "ADDED event: no resourceVersion",
		`{"type":"ADDED","object":[]}`: "ADDED event: json",
		`{"type":"FLED","object":{"metadata":{"resourceVersion":"2"}}}`:              `event of type "FLED"`,
		`{"type":"ERROR","object":{"code":500,"message":"no"}}`:                      "500 Internal Server Error: no",
		`{"type":"ADDED","object":"` + strings.Repeat("x", maxEvent) + `"}`:          "larger than any object may be",
		`{"type":"ADDED","object":{"metadata":{"resourceVersion":"2","labels":[]}}}`: "ADDED event: json",
	} {
		_, err := watchOnce(body)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: error %v, want %q", body, err, want)
		}
	}
}

func FuzzWatch(f *testing.F) {
	f.Add(`{"type":"ADDED","object":{"metadata":{"resourceVersion":"2"}}}{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"3"}}}`)
	f.Add(`{"type":"ERROR","object":{"code":410}}`)
	f.Add(`{"type":1}`)
	f.Fuzz(func(_ *testing.T, s string) { watchOnce(s) })
}

func TestNewNamesWhatIsWrong(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		o    Options
		want string
	}{
		{Options{}, `server "" is no URL`},
		{Options{Server: "10.96.0.1:443"}, `server "10.96.0.1:443" is no URL`},
		{Options{Server: "https://a", CAFile: "/nowhere/ca.crt"}, "certificates of the API server: open /nowhere/ca.crt"},
		{Options{Server: "https://a", CAFile: empty}, "empty.pem: no certificate in it"},
	} {
		if _, err := New(r.o); err == nil || !strings.Contains(err.Error(), r.want) {
			t.Errorf("New(%+v): %v, want %q", r.o, err, r.want)
		}
	}
}

func TestInCluster(t *testing.T) {
	dir := t.TempDir()
	env := map[string]string{}
	get := func(k string) string { return env[k] }
	if _, err := inCluster(get, dir); err == nil || !strings.Contains(err.Error(), "not in a pod") {
		t.Errorf("outside: %v", err)
	}
	env["KUBERNETES_SERVICE_HOST"], env["KUBERNETES_SERVICE_PORT"] = "fd00::1", "443"
	if _, err := inCluster(get, dir); err == nil || !strings.Contains(err.Error(), "ca.crt") {
		t.Errorf("without a service account: %v", err)
	}
	for _, f := range []string{"ca.crt", "token"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if o, err := inCluster(get, dir); err != nil || o.Server != "https://[fd00::1]:443" {
		t.Errorf("in a pod: %+v, %v", o, err)
	}
}

// selfSigned returns a certificate that nobody uses.
func selfSigned(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// TestFilesAreReadAnew is with a real server, whose certificate and whose token
// change.
func TestFilesAreReadAnew(t *testing.T) {
	var token string
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token = r.Header.Get("Authorization")
		io.WriteString(w, "{}")
	})
	dir := t.TempDir()
	write := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	trust := func(s *httptest.Server) {
		t.Helper()
		write("ca", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	}
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // it is going to be distrusted
	s.StartTLS()
	defer s.Close()
	trust(s)
	write("token", []byte("one\n"))
	c, err := New(Options{Server: s.URL, CAFile: filepath.Join(dir, "ca"), TokenFile: filepath.Join(dir, "token")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if c, err := c.http(); err == nil {
			c.CloseIdleConnections()
		}
	}()
	ask := func() error { return c.Annotate(t.Context(), "a", "b", "", nil) }
	if err := ask(); err != nil || token != "Bearer one" {
		t.Fatalf("error %v, token %q", err, token)
	}
	write("token", []byte("two"))
	if err := ask(); err != nil || token != "Bearer two" {
		t.Errorf("error %v, token %q, want the new one", err, token)
	}
	write("ca", selfSigned(t))
	if err := ask(); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("with another's certificate: error %v", err)
	}
	trust(s)
	if err := ask(); err != nil {
		t.Errorf("with its certificate again: %v", err)
	}
}
