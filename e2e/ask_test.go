//go:build linux

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waystone-mesh/waystone/e2e/internal/cluster"
)

// An answer is what a pod of echo said, or why it did not.
type answer struct {
	err         error
	status      int
	pod, source string         // who answered, and who asked as that one saw it
	local       netip.AddrPort // of our connection: the node tunnel's log has it
}

func (a answer) String() string {
	if a.err != nil {
		return a.err.Error()
	}
	return fmt.Sprintf("%d by %s for %s", a.status, a.pod, a.source)
}

// patience is how long a request may take: 5 s.
const patience = 5 * time.Second

// get asks for / from within a pod, over a connection of its own.
func get(ctx context.Context, from cluster.Pod, to string) (a answer) {
	return request(ctx, from, to, "GET", "/")
}

func request(ctx context.Context, from cluster.Pod, to, method, path string) (a answer) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := from.DialFresh(ctx, to)
	if err != nil {
		return answer{err: err}
	}
	defer conn.Close()
	a = over(ctx, conn, method, to, path)
	a.local = conn.LocalAddr().(*net.TCPAddr).AddrPort()
	return a
}

// over makes one request over a connection.
func over(ctx context.Context, conn net.Conn, method, host, path string) (a answer) {
	if limit, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(limit)
	}
	if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\n\r\n", method, path, host); err != nil {
		return answer{err: err}
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{err: err}
	}
	a.status = resp.StatusCode
	for line := range strings.Lines(string(body)) {
		switch name, value, _ := strings.Cut(strings.TrimSpace(line), ": "); name {
		case "pod":
			a.pod = value
		case "source":
			a.source = value
		}
	}
	return a
}

// vip returns the address of a service, with a port.
func (r *rig) vip(namespace, name string, port int) string {
	r.t.Helper()
	var s struct{ Spec struct{ ClusterIP string } }
	if err := r.Get(r.ctx, "/api/v1/namespaces/"+namespace+"/services/"+name, &s); err != nil {
		r.t.Fatal(err)
	}
	return net.JoinHostPort(s.Spec.ClusterIP, fmt.Sprint(port))
}

// ztunnel returns the node tunnel of a node.
func (r *rig) ztunnel(node string) cluster.Pod {
	r.t.Helper()
	pods, err := r.PodsReady(r.ctx, "istio-system", "app=ztunnel")
	if err != nil {
		r.t.Fatal(err)
	}
	for _, p := range pods {
		if p.Node == node {
			return p
		}
	}
	r.t.Fatalf("no node tunnel is ready on node %s", node)
	return cluster.Pod{}
}

// logged waits for a line of a node tunnel's log that has all of some texts.
func (r *rig) logged(node string, texts ...string) string {
	r.t.Helper()
	line := r.find(node, time.Time{}, 3*time.Second, texts...)
	if line == "" {
		r.t.Fatalf("no line of the node tunnel on %s has %q", node, texts)
	}
	return line
}

// find is logged, of lines since a time, and "" if there is none within the limit.
func (r *rig) find(node string, since time.Time, limit time.Duration, texts ...string) string {
	r.t.Helper()
	first := since.UTC().Format("2006-01-02T15:04:05.000000Z") // as lines begin
	pod := r.ztunnel(node)
	for deadline := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		for line := range strings.Lines(r.kubectl("-n", "istio-system", "logs", pod.Name, "--tail=2000")) {
			if line >= first && !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
				return strings.TrimSpace(line)
			}
		}
		if time.Now().After(deadline) {
			return ""
		}
	}
}

// way asks from within a pod, and returns the answer and what the node tunnel has written
// about the connection. Where redirection has given the connection another port all the
// same, it is not found: then another is tried.
func (r *rig) way(from cluster.Pod, to string) (a answer, line string) {
	r.t.Helper()
	for range 5 {
		began := time.Now() // an earlier connection may have had the same port
		a = get(r.ctx, from, to)
		if a.err != nil {
			return a, ""
		}
		line = r.find(from.Node, began, time.Second, "src.addr="+a.local.String()+" ", "connection complete")
		if line != "" {
			return a, line
		}
	}
	r.t.Fatalf("no connection to %s has a line in the log of the node tunnel on %s", to, from.Node)
	return a, ""
}

// A load is requests that go on while something else happens.
type load struct {
	name string
	stop context.CancelFunc
	done sync.WaitGroup
	sent atomic.Int64

	mu     sync.Mutex
	failed []string
	worst  time.Duration
}

// over a connection each, or all over one, which is opened again when it breaks.
type reuse bool

const (
	each reuse = false
	kept reuse = true
)

// load begins to make requests from a pod, one after the other with 5 ms between them.
func (r *rig) load(name string, from cluster.Pod, to string, how reuse) *load {
	ctx, stop := context.WithCancel(r.ctx)
	l := &load{name: name, stop: stop}
	r.t.Cleanup(stop)
	l.done.Go(func() {
		var conn net.Conn
		defer func() {
			if conn != nil {
				conn.Close()
			}
		}()
		for ctx.Err() == nil {
			began := time.Now()
			var a answer
			one, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
			if conn == nil {
				conn, a.err = from.Dial(one, "tcp", to)
			}
			if a.err == nil {
				a = over(one, conn, "GET", to, "/")
			}
			cancel()
			l.tell(a, time.Since(began))
			if conn != nil && (a.err != nil || how == each) {
				conn.Close()
				conn = nil
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	return l
}

func (l *load) tell(a answer, took time.Duration) {
	l.sent.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.worst = max(l.worst, took)
	if a.err != nil || a.status != http.StatusOK {
		l.failed = append(l.failed, fmt.Sprintf("%s after %s: %s", time.Now().Format("15:04:05.000"), took.Round(time.Millisecond), a))
	}
}

// end ends the load and says how it went.
func (l *load) end() (sent int64, failed []string) {
	l.stop()
	l.done.Wait()
	return l.sent.Load(), l.failed
}

// lossless ends the load and fails the test if a request has failed.
func (r *rig) lossless(loads ...*load) {
	r.t.Helper()
	for _, l := range loads {
		sent, failed := l.end()
		r.t.Logf("%s: %d requests, %d failed, the slowest in %s", l.name, sent, len(failed), l.worst.Round(time.Millisecond))
		if sent < 50 || len(failed) > 0 {
			r.t.Errorf("%s: %d of %d requests failed: %s", l.name, len(failed), sent, strings.Join(failed[:min(len(failed), 5)], "; "))
		}
	}
}
