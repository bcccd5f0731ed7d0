package jwks

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/authz/jwt"
)

// An endpoint is a real server, and a follower that asks it.
type endpoint struct {
	*httptest.Server
	mux *http.ServeMux
}

// serve returns a server, which speaks TLS if that is configured.
func serve(t *testing.T, secure *tls.Config) *endpoint {
	t.Helper()
	e := &endpoint{mux: http.NewServeMux()}
	e.Server = httptest.NewUnstartedServer(e.mux)
	e.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	if e.TLS = secure; secure != nil {
		e.StartTLS()
	} else {
		e.Start()
	}
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) say(path, text string) {
	e.mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) })
}

// follower returns one of source, which trusts e.
func (e *endpoint) follower(source jwt.Source) *follower {
	o := Options{MaxBytes: 1000}
	if e.TLS != nil {
		o.Roots = x509.NewCertPool()
		o.Roots.AddCert(e.Certificate())
	}
	return &follower{store: New(o), source: source, name: name(source)}
}

// ids returns the IDs of what the source at uri says, or what is wrong.
func ids(t *testing.T, f *follower) string {
	t.Helper()
	doc, err := f.fetch(t.Context())
	if err != nil {
		return "error: " + err.Error()
	}
	if doc.unchanged {
		return "unchanged"
	}
	f.uri, f.tag = doc.uri, doc.tag
	out := strings.Join(doc.keys.IDs(), ",")
	if doc.skipped != "" {
		out += " without " + doc.skipped
	}
	return out
}

func TestFetchByURI(t *testing.T) {
	e := serve(t, nil)
	e.say("/good", keySet("a"))
	e.say("/some", `{"keys":[{"kty":"X"},{"kty":"oct","k":"AA","kid":"a"}]}`)
	e.say("/none", `{"keys":[]}`)
	e.say("/html", "<html>\n<p>")
	e.say("/list", "[]")
	e.say("/else", `{"a":1}`)
	e.say("/full", keySet("a")+strings.Repeat(" ", 1000-len(keySet("a"))))
	e.say("/long", keySet("a")+strings.Repeat(" ", 1001-len(keySet("a"))))
	e.mux.HandleFunc("/away", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "a secret", 404) })
	e.mux.HandleFunc("/304", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) })
	e.mux.HandleFunc("/cut", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte("{"))
	})
	e.mux.HandleFunc("/once", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/good?a=secret", http.StatusFound)
	})
	e.mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	e.mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
	})
	e.mux.HandleFunc("/referer", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/whence", http.StatusFound)
	})
	e.mux.HandleFunc("/whence", func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(keySet("referer" + r.Header.Get("Referer"))))
	})
	for n := range 4 {
		e.mux.HandleFunc(fmt.Sprintf("/hop%d", n+1), func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, map[bool]string{true: "/good", false: fmt.Sprintf("/hop%d", n)}[n == 0], http.StatusFound)
		})
	}
	for path, want := range map[string]string{
		"/hop3":          "a",
		"/hop4":          "error: more than 3 redirects",
		"/good?k=secret": "a",
		"/some":          `a without keys[0]: kty "X" is not supported`,
		"/none":          "",
		"/html":          "error: key set: line 1, column 1: is not JSON: invalid character '<' looking for beginning of value",
		"/list":          "error: key set: is not a JSON object",
		"/else":          `error: key set: has no field "keys"`,
		"/full":          "a",
		"/long":          "error: more than 1000 bytes",
		"/away":          "error: status 404",
		"/304":           "error: status 304",
		"/cut":           "error: reading: unexpected EOF",
		"/once":          "a",
		"/loop":          "error: more than 3 redirects",
		"/file":          `error: unsupported protocol scheme "file"`,
		"/referer":       "referer",
	} {
		if got := ids(t, e.follower(jwt.Source{URI: e.URL + path})); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
	for uri, want := range map[string]string{
		"ftp://keys.example/":              `error: not http: or https: but "ftp"`,
		"http://%zz":                       "error: not a URL",
		"http://169.254.169.254/x":         "169.254.169.254 is link-local, where no keys are fetched",
		"http://[fe80::1%25lo]/x":          "fe80::1 is link-local, where no keys are fetched",
		"http://100.100.100.200":           "100.100.100.200 is a cloud's metadata service, where no keys are fetched",
		"http://[fd00:ec2::254]/":          "fd00:ec2::254 is a cloud's metadata service, where no keys are fetched",
		"http://[::ffff:100.100.100.200]/": "100.100.100.200 is a cloud's metadata service, where no keys are fetched",
		"http://[::ffff:169.254.1.1]/":     "169.254.1.1 is link-local, where no keys are fetched",
	} {
		if got := ids(t, e.follower(jwt.Source{URI: uri})); !strings.HasSuffix(got, want) {
			t.Errorf("%s: got %s, want %s", uri, got, want)
		}
	}
}

func TestFetchWithTag(t *testing.T) {
	e := serve(t, nil)
	tag, keys := `"1"`, keySet("a")
	e.mux.HandleFunc("/keys", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(304)
			return
		}
		w.Header().Set("ETag", tag)
		_, _ = w.Write([]byte(keys))
	})
	f := e.follower(jwt.Source{URI: e.URL + "/keys"})
	for i, want := range []string{"a", "unchanged", "b", "unchanged", "b"} {
		switch i {
		case 2:
			tag, keys = `"2"`, keySet("b")
		case 4:
			f.uri = "elsewhere"
		}
		if got := ids(t, f); got != want {
			t.Errorf("fetch %d: got %s, want %s", i, got, want)
		}
	}
}

func TestFetchByDiscovery(t *testing.T) {
	e := serve(t, nil)
	configure := func(path, document string) {
		e.say(path+"/.well-known/openid-configuration", document)
	}
	e.say("/keys", keySet("a"))
	configure("", fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, e.URL, e.URL+"/keys"))
	configure("/tenant", fmt.Sprintf(`{"issuer":"other","jwks_uri":%q}`, e.URL+"/keys"))
	configure("/none", `{}`)
	configure("/text", `x`)
	configure("/relative", `{"jwks_uri":"/keys"}`)
	configure("/away", fmt.Sprintf(`{"jwks_uri":%q}`, e.URL+"/nowhere?k=secret"))
	for issuer, want := range map[string]string{
		e.URL:                "a",
		e.URL + "/":          "a",
		e.URL + "/tenant":    "a",
		e.URL + "/none":      "error: discovery: the document has no jwks_uri",
		e.URL + "/text":      "error: discovery: the document is not one of OpenID Connect: invalid character 'x' looking for beginning of value",
		e.URL + "/relative":  `error: /keys: not http: or https: but ""`,
		e.URL + "/away":      "error: " + e.URL + "/nowhere: status 404",
		e.URL + "/not":       "error: discovery: status 404",
		"me@issuer.example":  "error: discovery: the issuer is not a URL; set jwksUri or jwks",
		"http://%zz":         "error: discovery: the issuer is not a URL; set jwksUri or jwks",
		"ldap://example.org": `error: discovery: not http: or https: but "ldap"`,
	} {
		if got := ids(t, e.follower(jwt.Source{Issuer: issuer})); got != want {
			t.Errorf("%s: got %s, want %s", issuer, got, want)
		}
	}
	for issuer, want := range map[string]string{"": "", "/tenant": "other"} {
		doc, err := e.follower(jwt.Source{Issuer: e.URL + issuer}).fetch(t.Context())
		if err != nil || doc.issuer != want {
			t.Errorf("%s calls itself %q (%v), want %q", issuer, doc.issuer, err, want)
		}
	}
}

func TestFetchOverTLS(t *testing.T) {
	plain, e := serve(t, nil), serve(t, &tls.Config{MinVersion: tls.VersionTLS12})
	plain.say("/keys", keySet("plain"))
	e.say("/keys", keySet("a"))
	e.mux.HandleFunc("/down", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, plain.URL+"/keys", http.StatusFound)
	})
	e.say("/.well-known/openid-configuration", fmt.Sprintf(`{"jwks_uri":%q}`, plain.URL+"/keys"))
	plain.mux.HandleFunc("/up", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, e.URL+"/keys", http.StatusFound)
	})
	for _, c := range []struct {
		source jwt.Source
		want   string
	}{
		{jwt.Source{URI: e.URL + "/keys"}, "a"},
		{jwt.Source{URI: e.URL + "/down"}, "error: leads from https to http"},
		{jwt.Source{URI: plain.URL + "/up"}, "a"},
		{jwt.Source{Issuer: e.URL}, "error: discovery: leads from https to http"},
	} {
		if got := ids(t, e.follower(c.source)); got != c.want {
			t.Errorf("%v: got %s, want %s", c.source, got, c.want)
		}
	}
	_, err := plain.follower(jwt.Source{URI: e.URL + "/keys"}).fetch(t.Context())
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) {
		t.Errorf("a server that nobody vouches for: %v", err)
	}
	old := serve(t, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	if got := ids(t, old.follower(jwt.Source{URI: old.URL + "/keys"})); !strings.Contains(got, "protocol version") {
		t.Errorf("TLS 1.1: %s", got)
	}
}

// TestStoreTellsNoSecrets follows sources that have some, at a real server.
func TestStoreTellsNoSecrets(t *testing.T) {
	e := serve(t, nil)
	e.say("/keys", keySet("a"))
	u, err := url.Parse(e.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("me", "secret")
	for _, path := range []string{"/keys", "/missing"} {
		source := jwt.Source{URI: u.String() + path + "?k=secret#secret"}
		if got, want := name(source), e.URL+path; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got := ids(t, e.follower(source)); strings.Contains(got, "secret") {
			t.Errorf("got %s", got)
		}
	}
	if got, want := name(jwt.Source{Issuer: "http://me:secret@issuer.example/a"}), "issuer http://issuer.example/a"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := redacted("http://me:secret@%zz"); strings.Contains(got, "secret") {
		t.Errorf("got %s", got)
	}
	for _, addr := range []string{"not an address", "[::ffff:100.100.100.200]:80"} {
		if err := permitted(addr); err == nil {
			t.Errorf("%s is permitted", addr)
		}
	}
}
