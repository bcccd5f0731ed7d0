package memnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

var (
	client = netip.MustParseAddr("10.0.0.1")
	server = netip.MustParseAddrPort("10.0.0.2:80")
)

// dial connects to a listener and returns both ends.
func dial(t *testing.T, n *Net, dst netip.AddrPort, ln net.Listener) (near, far *Conn) {
	t.Helper()
	c, err := n.Dial(t.Context(), client, dst)
	if err != nil {
		t.Fatal(err)
	}
	a, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c.(*Conn), a.(*Conn)
}

func wantRead(t *testing.T, c net.Conn, want string) {
	t.Helper()
	p := make([]byte, len(want))
	if _, err := io.ReadFull(c, p); err != nil || string(p) != want {
		t.Errorf("read %q, %v; want %q", p, err, want)
	}
}

func wantError(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestDial(t *testing.T) {
	n := New()
	ln := n.Listen(server)
	near, far := dial(t, n, server, ln)
	if got := near.RemoteAddr().String(); got != "10.0.0.2:80" {
		t.Errorf("remote %s", got)
	}
	if got, want := far.RemoteAddr().String(), near.LocalAddr().String(); got != want || far.LocalAddr().String() != "10.0.0.2:80" {
		t.Errorf("the far end is %s to %s, the near %s", far.LocalAddr(), got, want)
	}
	near.Write([]byte("ping"))
	wantRead(t, far, "ping")
	far.Write([]byte("pong"))
	wantRead(t, near, "pong")

	_, err := n.Dial(t.Context(), client, netip.MustParseAddrPort("10.0.0.2:81"))
	wantError(t, "nobody listens", err, syscall.ECONNREFUSED)
	ln.Close()
	_, err = n.Dial(t.Context(), client, server)
	wantError(t, "after Close", err, syscall.ECONNREFUSED)
	_, err = ln.Accept()
	wantError(t, "Accept", err, net.ErrClosed)
	near.Close()
	far.Close()
	if n.Open() != 0 {
		t.Errorf("%d ends open", n.Open())
	}
}

func TestListen(t *testing.T) {
	n := New()
	for _, any := range []string{"0.0.0.0:90", "[::]:91"} {
		a := netip.MustParseAddrPort(any)
		ln := n.Listen(a)
		dst := netip.AddrPortFrom(netip.MustParseAddr("fd00::7"), a.Port())
		_, far := dial(t, n, dst, ln)
		if got := far.LocalAddr().String(); got != dst.String() {
			t.Errorf("accepted at %s, want %s", got, dst)
		}
	}
	ln := n.Listen(netip.AddrPortFrom(client, 0))
	if ln.Addr().(*net.TCPAddr).Port == 0 {
		t.Error("no port was picked")
	}
	c, err := n.Dial(t.Context(), netip.Addr{}, ln.Addr().(*net.TCPAddr).AddrPort())
	if err != nil || c.LocalAddr().(*net.TCPAddr).IP.String() != "127.0.0.1" {
		t.Errorf("dialled from %v, %v", c, err)
	}
	wantError(t, "closing with a backlog", ln.Close(), nil)
	_, err = c.Read(make([]byte, 1))
	wantError(t, "not accepted", err, syscall.ECONNRESET)
	wantError(t, "second Close", ln.Close(), net.ErrClosed)
	defer func() {
		if recover() == nil {
			t.Error("listening twice does not panic")
		}
	}()
	n.Listen(netip.MustParseAddrPort("0.0.0.0:90"))
}

func TestHalfClose(t *testing.T) {
	a, b := Pipe()
	a.Write([]byte("question"))
	a.CloseWrite()
	if got, err := io.ReadAll(b); string(got) != "question" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	_, err := a.Write([]byte("more"))
	wantError(t, "Write after CloseWrite", err, syscall.EPIPE)
	b.Write([]byte("answer"))
	b.Close()
	if got, err := io.ReadAll(a); string(got) != "answer" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	_, err = b.Read(make([]byte, 1))
	wantError(t, "Read after Close", err, net.ErrClosed)
	wantError(t, "second Close", b.Close(), net.ErrClosed)
	wantError(t, "CloseWrite after Close", b.CloseWrite(), net.ErrClosed)
}

func TestResets(t *testing.T) {
	for name, closing := range map[string]func(*Conn){
		"linger": func(c *Conn) { io.ReadFull(c, make([]byte, 4)); c.SetLinger(0); c.Close() },
		"unread": func(c *Conn) { c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := Pipe()
			b.Write([]byte("read"))
			a.Write([]byte("first"))
			closing(a)
			wantRead(t, b, "first")
			_, err := b.Read(make([]byte, 1))
			wantError(t, "Read", err, syscall.ECONNRESET)
			_, err = b.Write([]byte("x"))
			wantError(t, "Write", err, syscall.ECONNRESET)
		})
	}
	a, b := Pipe()
	a.Close()
	_, err := b.Write([]byte("x"))
	wantError(t, "Write to a closed end", err, syscall.EPIPE)
}

func TestWriteBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe()
		want := bytes.Repeat([]byte("0123456789"), 30_000)
		wrote := 0
		go func() {
			wrote, _ = a.Write(want)
			a.Close()
		}()
		synctest.Wait()
		if wrote != 0 || b.Buffered() != bufferSize {
			t.Errorf("wrote %d, %d buffered", wrote, b.Buffered())
		}
		got, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("read %d bytes, %v", len(got), err)
		}
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := Pipe()
		start := time.Now()
		a.SetReadDeadline(start.Add(time.Minute))
		_, err := a.Read(make([]byte, 1))
		wantError(t, "Read", err, os.ErrDeadlineExceeded)
		var ne net.Error
		if !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("%v is not a timeout", err)
		}
		a.SetWriteDeadline(start.Add(time.Hour))
		_, err = a.Write(make([]byte, 2*bufferSize))
		wantError(t, "Write", err, os.ErrDeadlineExceeded)
		if took := time.Since(start); took != time.Hour {
			t.Errorf("took %v", took)
		}

		// A deadline that is moved while somebody waits.
		a.SetDeadline(time.Time{})
		done := make(chan error)
		go func() {
			_, err := a.Read(make([]byte, 1))
			done <- err
		}()
		synctest.Wait()
		a.SetDeadline(time.Now().Add(time.Hour))
		a.SetDeadline(time.Now())
		wantError(t, "Read", <-done, os.ErrDeadlineExceeded)
	})
}

func TestCloseEndsWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		ln := n.Listen(server)
		a, _ := Pipe()
		errs := make(chan error, 3)
		go func() { _, err := a.Read(make([]byte, 1)); errs <- err }()
		go func() { _, err := a.Write(make([]byte, 2*bufferSize)); errs <- err }()
		go func() { _, err := ln.Accept(); errs <- err }()
		synctest.Wait()
		a.Close()
		ln.Close()
		for range 3 {
			wantError(t, "while closing", <-errs, net.ErrClosed)
		}
	})
}

func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		ln := n.Listen(server)
		near, far := dial(t, n, server, ln)
		n.Stall(server.Addr(), true)
		near.Write([]byte("lost?"))
		near.CloseWrite()
		far.SetReadDeadline(time.Now().Add(time.Minute))
		_, err := far.Read(make([]byte, 1))
		wantError(t, "stalled Read", err, os.ErrDeadlineExceeded)

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = n.Dial(ctx, client, server)
		wantError(t, "stalled Dial", err, context.DeadlineExceeded)

		done := make(chan error)
		go func() {
			c, err := n.Dial(t.Context(), client, server)
			if err == nil {
				c.Close()
			}
			done <- err
		}()
		synctest.Wait()
		n.Stall(server.Addr(), false)
		wantError(t, "Dial after the stall", <-done, nil)
		far.SetReadDeadline(time.Time{})
		if got, err := io.ReadAll(far); string(got) != "lost?" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
	})
}

func TestSegment(t *testing.T) {
	n := New()
	a, b := n.Pipe(server, netip.AddrPortFrom(client, 1))
	n.Segment(3)
	a.Write([]byte("abcdefgh"))
	p := make([]byte, 10)
	if k, _ := b.Read(p); k != 3 {
		t.Errorf("read %d bytes, want 3", k)
	}
	n.Segment(0)
	if k, _ := b.Read(p); k != 5 {
		t.Errorf("read %d bytes, want the other 5", k)
	}
}
