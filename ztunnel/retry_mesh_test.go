package ztunnel_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/ztunnel"
)

// replicas is a client and a service of n pods on another node, the addresses of
// which are 10.0.0.10 and on.
func replicas(f *fabric, n int, edit func(*ztunnel.Options)) (here, there *nodeTunnel) {
	values := []config.Resource{aPod("web", "10.0.0.1", "node-a", nil), aService("items", "10.9.0.1", "", nil)}
	for i := range n {
		name := "items." + string(rune('a'+i))
		addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(10 + i)}).String()
		values = append(values, aPod(name, addr, "node-b", func(w *mesh.Workload) { w.ServiceAccount = "items" }, "items"))
	}
	return f.node("node-a", edit, values...), f.node("node-b", nil, values...)
}

func flagged(n *nodeTunnel, flag string) float64 {
	return n.metric("istio_tcp_connections_failed_total", map[string]string{"response_flags": flag, "reporter": "source"})
}

// One of three applications listens: it is always found, before a byte is sent.
func TestFailedEndpointsAreTriedLast(t *testing.T) {
	f := newFabric(t)
	here, there := replicas(f, 3, nil)
	f.serve("10.0.0.12:8080", echo)
	for range 20 {
		nc := f.connect("10.0.0.1", "items:80")
		wantEcho(t, nc)
		closeBoth(t, nc)
	}
	// Each of the others is asked once, and then remembered.
	failed := flagged(here, "CONNECT")
	if failed < 1 || failed > 2 {
		t.Errorf("%v attempts failed, want 1 or 2", failed)
	}
	f.wantLine("connection complete", `direction="outbound"`, "hbone: the peer answered the CONNECT with 503; trying items.")
	f.until("20 have ended", func() bool {
		return there.metric("istio_tcp_connections_closed_total", map[string]string{"response_flags": "-"}) == 20
	})
}

func TestNoMoreEndpointsAreTriedThanAllowed(t *testing.T) {
	for _, row := range []struct {
		retries  int
		attempts float64
	}{{0, 3}, {1, 2}, {-1, 1}, {9, 5}} {
		t.Run(fmt.Sprint(row.retries), func(t *testing.T) {
			f := newFabric(t)
			here, _ := replicas(f, 5, func(o *ztunnel.Options) { o.ConnectRetries = row.retries })
			f.wantRefused("10.0.0.1", "items:80")
			if got := flagged(here, "CONNECT"); got != row.attempts {
				t.Errorf("%v attempts, want %v", got, row.attempts)
			}
		})
	}
}

// What a policy refuses it would refuse elsewhere; and who asked for one pod wants
// no other.
func TestNoOtherEndpointIsTriedForAnAnswer(t *testing.T) {
	t.Run("401", func(t *testing.T) {
		f := newFabric(t)
		here, there := replicas(f, 3, nil)
		f.serve("10.0.0.10:8080", echo)
		there.apply(&authz.Policy{Name: "nobody", Namespace: "default", Action: authz.Allow})
		f.wantRefused("10.0.0.1", "items:80")
		if got := flagged(here, "DENY"); got != 1 {
			t.Errorf("%v attempts, want 1", got)
		}
	})
	t.Run("pod", func(t *testing.T) {
		f := newFabric(t)
		here, _ := replicas(f, 3, nil)
		f.serve("10.0.0.11:8080", echo)
		f.wantRefused("10.0.0.1", "10.0.0.10:8080")
		if got := flagged(here, "CONNECT"); got != 1 {
			t.Errorf("%v attempts, want 1", got)
		}
	})
}

// What the client says before anybody has answered is for who answers at last.
func TestEarlyBytesGoToTheEndpointThatAnswers(t *testing.T) {
	f := newFabric(t)
	held := make(chan func(), 10)
	replicas(f, 2, func(o *ztunnel.Options) {
		dial := o.Dial
		o.Dial = func(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
			if dst.Addr().String() != "10.0.0.10" {
				return dial(ctx, src, dst)
			}
			release := make(chan struct{})
			held <- func() { close(release) }
			<-release
			return nil, errors.New("no route to host")
		}
	})
	f.serve("10.0.0.11:8080", echo)
	for range 100 { // until the first choice is the one that does not answer
		done := f.later("10.0.0.1", "items:80", "early")
		select {
		case nc := <-done:
			wantRead(t, nc, "early")
			nc.Close()
		case release := <-held:
			release()
			nc := <-done
			wantRead(t, nc, "early")
			wantEcho(t, nc)
			nc.Close()
			f.wantLine("no route to host; trying items.b next, 1 of 2")
			return
		}
	}
	t.Error("the one that does not answer was never chosen first")
}

// A service whose endpoint is known by a host name, as ServiceEntries have it.
func TestEndpointIsLookedUp(t *testing.T) {
	f := newFabric(t)
	var asked atomic.Int64
	var names []string
	values := []config.Resource{
		aPod("web", "10.0.0.1", "node-a", nil),
		aPod("db", "", "", func(w *mesh.Workload) { w.Hostname, w.Tunnel = "db.example.com", mesh.Plain }, "db"),
		aPod("gone", "", "", func(w *mesh.Workload) { w.Hostname, w.Tunnel = "gone.example.com", mesh.Plain }, "gone"),
		aService("db", "10.9.0.1", "", nil), aService("gone", "10.9.0.2", "", nil),
	}
	f.node("node-a", func(o *ztunnel.Options) {
		o.Resolve = func(_ context.Context, host string) ([]netip.Addr, error) {
			asked.Add(1)
			names = append(names, host)
			if host == "db.example.com" {
				return []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.7")}, nil
			}
			return nil, errors.New("no such host")
		}
	}, values...)
	f.serve("192.0.2.7:8080", echo)
	for range 5 {
		nc := f.connect("10.0.0.1", "10.9.0.1:80")
		wantEcho(t, nc)
		nc.Close()
	}
	if asked.Load() != 1 || strings.Join(names, " ") != "db.example.com" {
		t.Errorf("asked for %v, want db.example.com once", names)
	}
	f.wantLine("connection complete", "dst.addr=192.0.2.7:8080", `dst.workload="db"`)
	f.wantRefused("10.0.0.1", "10.9.0.2:80")
	f.wantLine("look up the destination gone.example.com: no such host")
}

// Connections to a pod that was deleted end, whatever its node does, and
// nothing that is left of them is used for who has its address next.
func TestConnectionsEndWithTheirDestination(t *testing.T) {
	f := newFabric(t)
	values := []config.Resource{
		aPod("web", "10.0.0.1", "node-a", nil),
		aPod("items", "10.0.0.10", "node-b", nil, "items"),
		aPod("old", "10.0.0.11", "node-b", func(w *mesh.Workload) { w.Tunnel = mesh.Plain }),
		aPod("entry", "10.0.0.12", "node-b", func(w *mesh.Workload) {
			w.UID, w.Tunnel = "Kubernetes/networking.istio.io/WorkloadEntry/default/entry", mesh.Plain
		}),
		aService("items", "10.9.0.1", "", nil),
	}
	here := f.node("node-a", nil, values...)
	f.node("node-b", nil, values...) // is told of nothing more
	for _, a := range []string{"10.0.0.10:8080", "10.0.0.11:8080", "10.0.0.12:8080"} {
		f.serve(a, echo)
	}
	tunnelled, plain, entry := f.connect("10.0.0.1", "items:80"), f.connect("10.0.0.1", "10.0.0.11:8080"), f.connect("10.0.0.1", "10.0.0.12:8080")
	for _, nc := range []net.Conn{tunnelled, plain, entry} {
		wantEcho(t, nc)
	}
	here.remove(aPod("items", "", "", nil).Key(), aPod("old", "", "", nil).Key(),
		mesh.Key{Kind: "Workload", Name: "Kubernetes/networking.istio.io/WorkloadEntry/default/entry"})
	wantOver(t, tunnelled)
	wantOver(t, plain)
	f.wantLine("connection complete", `dst.workload="items"`, `direction="outbound"`, `error="the destination went away"`)
	f.wantLine("connection complete", `dst.workload="old"`, `direction="outbound"`, `error="the destination went away"`)
	wantEcho(t, entry) // what is no pod was only taken out of the mesh
	closeBoth(t, entry)
	f.until("the pool is empty", func() bool { _, pools := here.z.OpenForTest(); return pools.Conns == 0 })
}

// A pod that is only taken from manifests answers what it has been asked: the grace
// is an hour here.
func TestDestinationsThatAreGoneHaveAGrace(t *testing.T) {
	f := newFabric(t)
	values := []config.Resource{aPod("web", "10.0.0.1", "node-a", nil), aPod("items", "10.0.0.10", "node-b", nil)}
	here := f.node("node-a", func(o *ztunnel.Options) { o.GoneGrace = time.Hour }, values...)
	f.node("node-b", nil, values...)
	f.serve("10.0.0.10:8080", echo)
	nc := f.connect("10.0.0.1", "10.0.0.10:8080")
	wantEcho(t, nc)
	here.remove(aPod("items", "", "", nil).Key())
	wantEcho(t, nc)
	closeBoth(t, nc)
	f.until("nothing is open", func() bool { open, _ := here.z.OpenForTest(); return open == 0 })
}

// A connection that is being made to a pod that goes is made to another.
func TestDestinationGoesWhileItIsDialled(t *testing.T) {
	f := newFabric(t)
	held := make(chan struct{}, 10)
	here, _ := replicas(f, 2, func(o *ztunnel.Options) {
		dial := o.Dial
		o.Dial = func(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
			if dst.Addr().String() == "10.0.0.10" {
				held <- struct{}{}
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return dial(ctx, src, dst)
		}
	})
	f.serve("10.0.0.11:8080", echo)
	for range 100 {
		done := f.later("10.0.0.1", "items:80")
		select {
		case nc := <-done:
			nc.Close()
		case <-held:
			here.remove(aPod("items.a", "", "", nil).Key())
			nc := <-done
			wantEcho(t, nc)
			nc.Close()
			f.wantLine("the destination went away; trying items.b next")
			return
		}
	}
	t.Error("the one that goes was never chosen first")
}
