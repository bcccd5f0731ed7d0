package h2

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/l7"
)

// A runner drives a Conn over a net.Conn, with a goroutine for each direction:
// the least that can stand in for a loop.
type runner struct {
	c  *Conn
	nc net.Conn

	mu     sync.Mutex // guards c
	output sync.Cond
	over   bool
	done   sync.WaitGroup
}

func run(role Role, o Options, h Handler, nc net.Conn) *runner {
	r := &runner{nc: nc}
	r.output.L = &r.mu
	o.Wake = r.output.Signal
	r.c = New(role, o, h, time.Now())
	r.done.Add(2)
	go r.read()
	go r.write()
	return r
}

func (r *runner) read() {
	defer r.done.Done()
	b := make([]byte, 32<<10)
	var failed error
	for failed == nil {
		n, err := r.nc.Read(b)
		r.mu.Lock()
		if n > 0 {
			failed = r.c.Receive(b[:n])
		}
		if err != nil && failed == nil {
			failed = r.c.EOF()
		}
		r.mu.Unlock()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	r.output.Signal()
}

// write ends when reading has and everything is written, and closes.
func (r *runner) write() {
	defer r.done.Done()
	var b []byte
	for {
		r.mu.Lock()
		for {
			if b = append(b[:0], r.c.Output()...); len(b) > 0 || r.over {
				break
			}
			r.output.Wait()
		}
		r.mu.Unlock()
		if len(b) == 0 {
			break
		}
		if _, err := r.nc.Write(b); err != nil {
			break
		}
	}
	r.nc.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.c.Closed(nil)
}

// do runs f where the Conn may be used.
func (r *runner) do(f func(c *Conn)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r.c)
	r.output.Signal()
}

func (r *runner) close() {
	r.nc.Close()
	r.done.Wait()
}

// echo is a server's Handler that sends back what it gets, headers first: the
// content of a request, or the bytes of a tunnel. A body called /N is N bytes.
type echo struct{ ignore }

func (echo) Headers(s *Stream, f l7.Fields, end bool) {
	if s.Value == nil {
		s.Value = true
		s.Headers(l7.Fields{{Name: ":status", Value: "200"}}, false)
		if f.Get(":method") == "GET" {
			s.Write([]byte("hello " + f.Get(":path")))
		}
	}
	if end {
		s.Headers(l7.Fields{{Name: "x-trailer", Value: "bye"}}, true)
	}
}

func (echo) Data(s *Stream, p []byte, end bool) {
	// Credit follows what has left: see Sent.
	queued := s.Write(p)
	s.Credit(len(p) - queued)
	if end {
		s.CloseWrite()
	}
}

func (echo) Sent(s *Stream, n int) { s.Credit(n) }

// ignore does nothing with events.
type ignore struct{}

func (ignore) Headers(*Stream, l7.Fields, bool) {}
func (ignore) Data(*Stream, []byte, bool)       {}
func (ignore) Sent(*Stream, int)                {}
func (ignore) Reset(*Stream, error)             {}
func (ignore) Changed()                         {}
func (ignore) Closed(error)                     {}

// TestConformance runs h2spec against a server when H2SPEC names its binary
// (github.com/summerwind/h2spec).
func TestConformance(t *testing.T) {
	tool := os.Getenv("H2SPEC")
	if tool == "" {
		t.Skip("H2SPEC is not set")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			// One test takes it that no server accepts longer frames than it must.
			run(Server, Options{MaxStreams: 100, MaxFrame: minFrame}, echo{}, nc)
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	args := append([]string{"-p", port, "-o", "2"}, strings.Fields(os.Getenv("H2SPEC_ARGS"))...)
	out, err := exec.Command(tool, args...).CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}
