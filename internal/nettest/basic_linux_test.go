//go:build netns

package nettest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/meshtest"
	"github.com/waystone-mesh/waystone/internal/nettest"
)

// echo runs an application in the pod that says from whom a connection came and
// then echoes.
func echo(p *nettest.Pod) {
	go echoOn(p.Listen(meshtest.AppPort))
}

func echoOn(ln net.Listener) {
	for {
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer nc.Close()
			fmt.Fprintf(nc, "%v\n", nc.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap())
			_, _ = io.Copy(nc, nc)
		}()
	}
}

func app(p *nettest.Pod) netip.AddrPort { return netip.AddrPortFrom(p.IP, meshtest.AppPort) }

// open connects and returns whom the application takes for its client.
func open(t testing.TB, from *nettest.Pod, dst netip.AddrPort) (nc net.Conn, client string, err error) {
	t.Helper()
	if nc, err = from.Open(t.Context(), dst); err != nil {
		return nil, "", err
	}
	_ = nc.SetDeadline(time.Now().Add(10 * time.Second)) // rather than hang
	t.Cleanup(func() { nc.Close() })
	if _, err = fmt.Fscanln(nc, &client); err != nil {
		nc.Close()
	}
	return nc, client, err
}

// wantOpen connects, checks that bytes go both ways and that the application
// sees the client, and leaves the connection open.
func wantOpen(t testing.TB, from *nettest.Pod, dst netip.AddrPort) net.Conn {
	t.Helper()
	nc, client, err := open(t, from, dst)
	if err != nil {
		t.Fatalf("%s to %v: %v", from.Name, dst, err)
	}
	if want := from.IP.String(); client != want {
		t.Errorf("%s to %v: the application sees %s, want %s", from.Name, dst, client, want)
	}
	wantEcho(t, nc)
	return nc
}

func wantEcho(t testing.TB, nc net.Conn) {
	t.Helper()
	if _, err := nc.Write([]byte("hello")); err != nil {
		t.Errorf("write: %v", err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(nc, b); err != nil || string(b) != "hello" {
		t.Errorf("read %q, %v; want hello", b, err)
	}
}

// brief opens a connection, has something echoed and closes it.
func brief(ctx context.Context, from *nettest.Pod, dst netip.AddrPort) error {
	nc, err := from.Open(ctx, dst)
	if err != nil {
		return err
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := nc.Write([]byte("hello")); err != nil {
		return err
	}
	b := make([]byte, len(from.IP.String())+1+5)
	_, err = io.ReadFull(nc, b)
	return err
}

// wantRefused checks that a connection comes to nothing, by a reset or a refusal
// and not by a timeout.
func wantRefused(t testing.TB, from *nettest.Pod, dst netip.AddrPort) {
	t.Helper()
	_, client, err := open(t, from, dst)
	var late net.Error
	if err == nil || errors.As(err, &late) && late.Timeout() {
		t.Errorf("%s to %v: client %q, %v; want a refusal", from.Name, dst, client, err)
	}
}

// wantCut checks that a connection ends, of its own.
func wantCut(t testing.TB, nc net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, nc)
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		t.Errorf("the connection goes on: %v", err)
	}
}

var places = []struct{ name, client, server string }{
	{"same node", "node-a", "node-a"}, {"other node", "node-a", "node-b"},
}

// TestWithoutMesh is of the network alone.
func TestWithoutMesh(t *testing.T) {
	for _, at := range places {
		t.Run(at.name, func(t *testing.T) {
			m := nettest.New(t, nettest.Options{})
			web, items := m.Pod(at.client, "web"), m.Pod(at.server, "items")
			echo(items)
			wantOpen(t, web, app(items)).Close()
			if n := len(m.Log()); n > 1 {
				t.Errorf("the node tunnels log %d lines of it", n)
			}
		})
	}
}

func TestCaptured(t *testing.T) {
	for _, at := range places {
		t.Run(at.name, func(t *testing.T) {
			m := nettest.New(t, nettest.Options{})
			web, items := m.Captured(at.client, "web"), m.Captured(at.server, "items")
			vip := netip.AddrPortFrom(m.Service("items", 80).IP, 80)
			echo(items)
			for _, dst := range []netip.AddrPort{app(items), vip} {
				wantOpen(t, web, dst).Close()
			}
			for _, direction := range []string{"inbound", "outbound"} {
				m.Until(direction+" line", func() bool { return len(lines(m, direction)) == 2 })
				m.WantLog("scope", "access", "direction", direction, "message", "connection complete",
					"src.identity", "spiffe://cluster.local/ns/default/sa/web", "dst.identity", "spiffe://cluster.local/ns/default/sa/items",
					"dst.addr", items.IP.String()+":15008", "dst.hbone_addr", items.IP.String()+":8080", "bytes_recv", sum(direction == "outbound", web), "bytes_sent", sum(direction == "inbound", web))
			}
		})
	}
}

// sum is how many bytes went: what the application says of the client, and five.
func sum(answer bool, client *nettest.Pod) int {
	if !answer {
		return 5
	}
	return len(client.IP.String()) + 1 + 5
}

// TestUncapturedClient comes in plain text, and is let in as nobody.
func TestUncapturedClient(t *testing.T) {
	for _, at := range places {
		t.Run(at.name, func(t *testing.T) {
			m := nettest.New(t, nettest.Options{})
			web, items := m.Pod(at.client, "web"), m.Captured(at.server, "items")
			echo(items)
			wantOpen(t, web, app(items)).Close()
			m.Until("inbound line", func() bool { return len(lines(m, "inbound")) == 1 })
			m.WantLog("scope", "access", "direction", "inbound", "src.identity", "<nil>", "dst.identity", "<nil>")
		})
	}
}

// TestUncapturedServer gets plain text from a captured client.
func TestUncapturedServer(t *testing.T) {
	m := nettest.New(t, nettest.Options{})
	m.Apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: outside}\n")
	web, legacy := m.Captured("node-a", "web"), m.Pod("node-b", "outside/legacy")
	echo(legacy)
	wantOpen(t, web, app(legacy)).Close()
	m.Until("outbound line", func() bool { return len(lines(m, "outbound")) == 1 })
}
