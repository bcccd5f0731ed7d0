package main

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// TestProxiesCarryRequests has h2load ask every reverse proxy, and a client of
// net/http look at what it says.
func TestProxiesCarryRequests(t *testing.T) {
	live(t)
	for _, group := range proxies(testEnv(t)) {
		for _, s := range group {
			t.Run(s.name, func(t *testing.T) {
				e := testEnv(t)
				if why := anyOf(s.missing, noH2load, noNginx)(); why != "" {
					t.Skip(why)
				}
				if _, err := startOrigins(t.Context(), e); err != nil {
					t.Fatal(err)
				}
				testProxy(t, e, upFor(t, e, s), strings.HasPrefix(s.name, "waystone"))
			})
		}
	}
}

func testProxy(t *testing.T, e *env, r *running, ours bool) {
	for path := range files {
		load := h2load{Clients: 4, Streams: 8, Duration: 200 * time.Millisecond, Path: path, Times: true}
		got, err := load.run(t.Context(), e, r)
		if err != nil {
			t.Fatal(err)
		}
		if got.Requests < 20 || got.Failed > 0 || got.Seconds == 0 || got.P50 == 0 || got.P99 < got.P50 {
			t.Errorf("%s: got %+v", path, got)
		}
	}
	scheme, version := "http://", 1
	if r.transport == "h2" {
		scheme, version = "https://", 2
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	ask := func(method, path, content string) (*http.Response, int) {
		req, err := http.NewRequestWithContext(t.Context(), method, scheme+r.connect+path, strings.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		return resp, len(text)
	}
	if resp, n := ask("GET", "/items-64k", ""); resp.StatusCode != 200 || n != 64<<10 || resp.ProtoMajor != version {
		t.Errorf("got %s, %s, %d bytes", resp.Proto, resp.Status, n)
	}
	if ours {
		for _, row := range [][2]string{{"GET", "/secret"}, {"DELETE", "/items-0"}} {
			if resp, _ := ask(row[0], row[1], ""); resp.StatusCode != 403 {
				t.Errorf("%s %s: got %s, want 403", row[0], row[1], resp.Status)
			}
		}
		if resp, _ := ask("POST", "/items-0", strings.Repeat("x", 100<<10)); resp.StatusCode != 200 && resp.StatusCode != 405 {
			t.Errorf("POST: got %s", resp.Status)
		}
		counted, err := r.counters()
		if err != nil || counted["istio_requests_total"] < 100 {
			t.Errorf("counters: got %v, %v", counted["istio_requests_total"], err)
		}
	}
	transport.CloseIdleConnections()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if ours {
		checkProxyLog(t, r.access)
	}
}

// checkProxyLog wants a line like a waypoint's.
func checkProxyLog(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	var got map[string]any
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	if got["response_code"] != 200.0 || got["route_name"] != "default.items.3" || got["response_code_details"] != "via_upstream" || len(got) != len(accessKeys) {
		t.Errorf("got %s", line)
	}
}

func TestH2loadIsRead(t *testing.T) {
	got, err := readH2load(`starting benchmark...
progress: 100% done

finished in 1500.50ms, 52345.50 req/s, 3.50MB/s
requests: 78545 total, 78609 started, 78545 done, 78540 succeeded, 5 failed, 2 errored, 0 timeout
status codes: 78530 2xx, 10 3xx, 3 4xx, 0 5xx
traffic: 5.26MB (5512345) total, 1.26MB (1322345) headers (space savings 92.00%), 0B (0) data
                     min         max         mean         sd        +/- sd
time for request:      239us      5.55ms       611us       215us    83.45%
`)
	if err != nil || got.Seconds != 1.5005 || got.Requests != 78530 || got.Failed != 15 {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range []string{"", "connect: refused", "finished in soon, 1 req/s"} {
		if got, err := readH2load(bad); err == nil {
			t.Errorf("%q: got %+v", bad, got)
		}
	}
}
