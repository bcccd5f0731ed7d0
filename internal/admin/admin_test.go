package admin

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waystone-mesh/waystone/telemetry"
)

// A client asks a Server that listens on ports of the system's choice.
type client struct {
	t *testing.T
	*Server
	http http.Client
}

func start(t *testing.T, o Options) *client {
	t.Helper()
	for _, a := range []*string{&o.Admin, &o.Metrics, &o.Health} {
		if *a == "" {
			*a = "127.0.0.1:0"
		}
	}
	s, err := Listen(o)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	c := &client{t: t, Server: s, http: http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}}}
	t.Cleanup(func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return c
}

// ask sends a request, with fields in pairs, and returns the response and its
// content.
func (c *client) ask(method, listener, path string, fields ...string) (*http.Response, string) {
	c.t.Helper()
	req, err := http.NewRequest(method, "http://"+c.Addr(listener).String()+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
		if fields[i] == "Host" {
			req.Host = fields[i+1]
		}
	}
	res, err := c.http.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return res, string(b)
}

// want asks and checks the status and that the content has a part.
func (c *client) want(status int, part, method, listener, path string, fields ...string) {
	c.t.Helper()
	res, got := c.ask(method, listener, path, fields...)
	if res.StatusCode != status || !strings.Contains(got, part) {
		c.t.Errorf("%s %s %s: %d %q, want %d with %q", method, listener, path, res.StatusCode, got, status, part)
	}
}

func TestReadinessNamesWhatIsPending(t *testing.T) {
	ready := new(Ready)
	identity, config := ready.Task("identity"), ready.Task("config")
	c := start(t, Options{Ready: ready})
	c.want(500, "pending:\nidentity\nconfig\n", "GET", "health", "/healthz/ready")
	identity()
	identity()
	c.want(500, "pending:\nconfig\n", "GET", "health", "/healthz/ready")
	config()
	c.want(200, "ready\n", "GET", "health", "/healthz/ready")
	again := ready.Task("config")
	c.want(500, "config", "GET", "health", "/healthz/ready")
	again()
	ready.Stop()
	c.want(500, "shutting down", "GET", "health", "/healthz/ready")
	c.want(404, "", "GET", "health", "/config_dump")
	if got := len(ready.Pending()); got != 1 {
		t.Errorf("%d pending, want 1", got)
	}
}

func TestTwoTasksOfOneName(t *testing.T) {
	var ready Ready
	first, second := ready.Task("x"), ready.Task("x")
	first()
	first()
	if got := ready.Pending(); len(got) != 1 {
		t.Errorf("after one: %q", got)
	}
	second()
	if got := ready.Pending(); len(got) != 0 {
		t.Errorf("after both: %q", got)
	}
}

func TestConfigDump(t *testing.T) {
	var dump any = map[string]any{"configs": []string{}}
	c := start(t, Options{ConfigDump: func() any { return dump }})
	res, got := c.ask("GET", "admin", "/config_dump")
	var v map[string]any
	if err := json.Unmarshal([]byte(got), &v); err != nil || res.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%v, %v: %s", err, res.Header, got)
	}
	dump = map[string]any{"f": func() {}}
	c.want(500, "config_dump: json", "GET", "admin", "/config_dump")
	c.want(405, "", "POST", "admin", "/config_dump")
	start(t, Options{}).want(200, "{}", "GET", "admin", "/config_dump")
}

func TestLoops(t *testing.T) {
	c := start(t, Options{Loops: func() any { return []int{1, 2} }})
	c.want(200, "[\n  1,\n  2\n]\n", "GET", "admin", "/loops")
	c.want(405, "", "POST", "admin", "/loops")
	c.want(404, "", "GET", "metrics", "/loops")
	c.want(200, `<a href="loops">`, "GET", "admin", "/")
	start(t, Options{}).want(404, "", "GET", "admin", "/loops")
}

func TestRecentDecisions(t *testing.T) {
	recent := func(v url.Values) (any, error) {
		switch {
		case v.Get("x") != "":
			return nil, errors.New(`parameter "x" is none of path`)
		case v.Get("format") == "text":
			return "denied: <b>\n", nil
		}
		return map[string]string{"path": v.Get("path")}, nil
	}
	c := start(t, Options{Recent: recent})
	c.want(200, "{\n  \"path\": \"/a b*\"\n}\n", "GET", "admin", "/authz/recent?path=/a%20b*")
	c.want(400, `authz/recent: parameter "x" is none of path`, "GET", "admin", "/authz/recent?x=1")
	c.want(400, "authz/recent: invalid", "GET", "admin", "/authz/recent?path=%zz")
	res, got := c.ask("GET", "admin", "/authz/recent?format=text")
	if got != "denied: <b>\n" || res.Header.Get("Content-Type") != "text/plain; charset=utf-8" || res.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("text: %v %q", res.Header, got)
	}
	c.want(405, "", "POST", "admin", "/authz/recent")
	c.want(404, "", "GET", "metrics", "/authz/recent")
	c.want(404, "", "GET", "health", "/authz/recent")
	c.want(403, "host must be", "GET", "admin", "/authz/recent", "Host", "evil.example")
	c.want(200, `<a href="authz/recent">`, "GET", "admin", "/")
	start(t, Options{}).want(404, "", "GET", "admin", "/authz/recent")
}

func TestLogging(t *testing.T) {
	log, err := telemetry.NewLog(telemetry.LogOptions{Level: "info"})
	if err != nil {
		t.Fatal(err)
	}
	c := start(t, Options{Log: log})
	c.want(405, "", "GET", "admin", "/logging")
	c.want(200, "current log level is info\n", "POST", "admin", "/logging")
	c.want(200, "current log level is info,xds:debug\n", "POST", "admin", "/logging?level=xds:debug")
	c.want(400, "none of trace", "POST", "admin", "/logging?level=loud")
	c.want(200, "current log level is info,xds:debug\n", "POST", "admin", "/logging?level=")
	c.want(200, "current log level is info\n", "POST", "admin", "/logging?reset")
	c.want(200, "current log level is debug\n", "POST", "admin", "/logging?level=debug")
	c.want(200, "current log level is info\n", "POST", "admin", "/logging?level=info&reset")
	start(t, Options{}).want(404, "", "POST", "admin", "/logging")
}

func TestQuit(t *testing.T) {
	quits := 0
	c := start(t, Options{Quit: func() { quits++ }})
	c.want(405, "", "GET", "admin", "/quitquitquit")
	for range 2 {
		c.want(200, "shutdown now", "POST", "admin", "/quitquitquit")
	}
	if quits != 1 {
		t.Errorf("quit %d times, want 1", quits)
	}
	start(t, Options{}).want(404, "", "POST", "admin", "/quitquitquit")
}

func TestIndexAndProfiles(t *testing.T) {
	c := start(t, Options{})
	c.want(200, "config_dump", "GET", "admin", "/")
	c.want(404, "", "GET", "admin", "/nothing")
	c.want(200, "goroutine", "GET", "admin", "/debug/pprof/")
	c.want(200, "goroutine profile:", "GET", "admin", "/debug/pprof/goroutine?debug=1")
	c.want(200, "", "GET", "admin", "/debug/pprof/heap")
	c.want(200, "", "GET", "admin", "/debug/pprof/cmdline")
}

func TestPagesOfOthersAreRefused(t *testing.T) {
	quits := 0
	c := start(t, Options{Quit: func() { quits++ }})
	c.want(403, "", "POST", "admin", "/quitquitquit", "Origin", "http://evil.example")
	c.want(403, "", "POST", "admin", "/quitquitquit", "Sec-Fetch-Site", "cross-site")
	c.want(403, "host must be", "GET", "admin", "/config_dump", "Host", "evil.example")
	c.want(200, "", "GET", "admin", "/config_dump", "Host", "localhost:15000")
	c.want(200, "", "GET", "admin", "/config_dump", "Host", "[::1]:15000")
	if quits != 0 {
		t.Errorf("quit %d times, want 0", quits)
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	requests := prometheus.NewCounter(prometheus.CounterOpts{Name: "things_total", Help: "Things."})
	reg.MustRegister(requests)
	requests.Add(3)
	c := start(t, Options{Gatherer: reg})
	for _, path := range []string{"/metrics", "/stats/prometheus"} {
		res, got := c.ask("GET", "metrics", path)
		if !strings.Contains(got, "\nthings_total 3\n") || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/plain; version=0.0.4") {
			t.Errorf("%s: %v: %s", path, res.Header, got)
		}
		res, got = c.ask("GET", "metrics", path, "Accept", "application/openmetrics-text; version=1.0.0")
		if !strings.HasSuffix(got, "# EOF\n") || !strings.HasPrefix(res.Header.Get("Content-Type"), "application/openmetrics-text") {
			t.Errorf("%s as OpenMetrics: %v: %s", path, res.Header, got)
		}
		res, got = c.ask("GET", "metrics", path, "Accept-Encoding", "gzip")
		if res.Header.Get("Content-Encoding") != "gzip" {
			t.Fatalf("%s: not compressed: %v", path, res.Header)
		}
		z, err := gzip.NewReader(strings.NewReader(got))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(z); err != nil || !strings.Contains(string(b), "things_total 3") {
			t.Errorf("%s, compressed: %v: %s", path, err, b)
		}
	}
	c.want(404, "", "GET", "metrics", "/config_dump")
	start(t, Options{}).want(200, "", "GET", "metrics", "/metrics")
}

func TestAdminListensOnLoopbackOnly(t *testing.T) {
	for _, addr := range []string{":15000", "0.0.0.0:0", "10.0.0.1:0", "[::]:0", "example.com:0", "nonsense"} {
		s, err := Listen(Options{Admin: addr, Metrics: Off, Health: Off})
		if err == nil {
			t.Errorf("%q was bound", addr)
			s.Shutdown(t.Context())
		}
	}
	for _, addr := range []string{"127.0.0.1:0", "127.1.2.3:0", "localhost:0"} {
		s, err := Listen(Options{Admin: addr, Metrics: Off, Health: Off})
		if err != nil {
			t.Errorf("%q: %v", addr, err)
			continue
		}
		if s.Addr("admin") == nil || s.Addr("metrics") != nil || s.Addr("health") != nil {
			t.Errorf("%q: listeners %v, %v, %v", addr, s.Addr("admin"), s.Addr("metrics"), s.Addr("health"))
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestListenLeavesNothingBoundWhenItFails(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	free.Close()
	if _, err := Listen(Options{Admin: addr, Metrics: taken.Addr().String(), Health: Off}); err == nil {
		t.Fatal("a taken address was bound")
	}
	again, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatalf("the first listener is still bound: %v", err)
	}
	again.Close()
}

func TestShutdownWaitsForWhatIsBeingAnswered(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	s, err := Listen(Options{Admin: "127.0.0.1:0", Metrics: Off, Health: Off, ConfigDump: func() any {
		close(asked)
		<-answer
		return "done"
	}})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	conn, err := net.Dial("tcp", s.Addr("admin").String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /config_dump HTTP/1.1\r\nHost: localhost\r\n\r\n")
	<-asked
	short, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Shutdown(short); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown with a request in flight: %v, want canceled", err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	close(answer)
	if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
		t.Error("a request outlived the context of Shutdown")
	}
}
