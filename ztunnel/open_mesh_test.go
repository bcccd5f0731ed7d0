package ztunnel_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/meshtest"
	"github.com/waystone-mesh/waystone/ztunnel"
)

// opened returns what the node tunnel of a pod says of it.
func opened(t *testing.T, m *meshtest.Mesh, name string) *ztunnel.Pod {
	t.Helper()
	for _, node := range []string{"node-a", "node-b"} {
		pods, err := m.Ztunnel(node).Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for uid, p := range pods {
			if strings.HasSuffix(uid, "/"+name) {
				return p
			}
		}
	}
	t.Fatalf("no node tunnel has the pod %s", name)
	return nil
}

func TestOpenTellsConnectionsOfBothSides(t *testing.T) {
	onBoth(t, meshtest.Options{}, func(t *testing.T, m *meshtest.Mesh) {
		web, items := m.Workload("web"), m.Workload("items")
		serve(items, echo)
		svc := m.Service("items", 80)
		nc := dial(t, web, svc.IP.String()+":80")
		wantEcho(t, nc)

		p := opened(t, m, "web")
		if p.State != ztunnel.Up || p.Workload.Name != "web" || len(p.Outbound) != 1 || len(p.Inbound) != 0 {
			t.Fatalf("web: got %+v, want it up with one outbound connection", p)
		}
		c := p.Outbound[0]
		if c.Source.Addr() != web.IP || c.Source.Port() == 0 || c.Original.String() != svc.IP.String()+":80" ||
			c.Actual.String() != items.IP.String()+":15008" || !c.HBONE || c.Peer != items.ID() ||
			!strings.HasPrefix(c.Service, "items.") || c.Received != 5 || c.Sent != 5 || c.Since.IsZero() {
			t.Errorf("web: got %+v", c)
		}
		p = opened(t, m, "items")
		if len(p.Inbound) != 1 || len(p.Outbound) != 0 {
			t.Fatalf("items: got %+v, want one inbound connection", p)
		}
		c = p.Inbound[0]
		if c.Source.Addr() != web.IP || c.Actual.String() != items.IP.String()+":8080" || !c.HBONE ||
			c.Peer != web.ID() || !strings.HasPrefix(c.Service, "items.") || c.Received != 5 || c.Sent != 5 {
			t.Errorf("items: got %+v", c)
		}

		nc.Close()
		m.Until("nothing is open", func() bool {
			return len(opened(t, m, "web").Outbound)+len(opened(t, m, "items").Inbound) == 0
		})
	})
}

// There are more than a loop tells at once.
func TestOpenTellsAllOfMany(t *testing.T) {
	m := meshtest.New(t)
	web, items := m.Workload("web"), m.Workload("items")
	serve(items, echo)
	const many = 600
	for range many {
		nc := dial(t, web, items.IP.String()+":8080")
		defer nc.Close()
		wantEcho(t, nc)
	}
	seen := map[uint16]bool{}
	for _, c := range opened(t, m, "web").Outbound {
		seen[c.Source.Port()] = true
	}
	if len(seen) != many {
		t.Errorf("got %d connections, want %d", len(seen), many)
	}
	if n := len(opened(t, m, "items").Inbound); n != many {
		t.Errorf("got %d inbound connections, want %d", n, many)
	}
}

// A dump must not wait for a loop that hangs, nor keep silent about it.
func TestOpenDoesNotWaitForALoopThatHangs(t *testing.T) {
	m := meshtest.New(t)
	web, items := m.Workload("web"), m.Workload("items")
	serve(items, echo)
	nc := dial(t, web, items.IP.String()+":8080")
	defer nc.Close()
	wantEcho(t, nc)
	z := m.Ztunnel("node-a")
	release := z.HangForTest()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	pods, err := z.Open(ctx)
	release()
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "loop 0") {
		t.Errorf("got %v, want that loop 0 has not answered", err)
	}
	if len(pods) == 0 {
		t.Error("no pods: they are known without the loops")
	}
}

// A pod whose ports cannot be opened is told, with the reason.
func TestOpenTellsWhyAPodIsPending(t *testing.T) {
	m := meshtest.With(t, meshtest.Options{Ztunnel: func(o *ztunnel.Options) {
		o.Listen = func(netip.AddrPort) (net.Listener, error) { return nil, errors.New("the address is in use") }
	}})
	m.Workload("web")
	if p := opened(t, m, "web"); p.State != ztunnel.Pending || p.Reason != "the address is in use" || p.Workload.Name != "web" {
		t.Errorf("got %+v, want it pending", p)
	}
}

// What outlives its node tunnel's readiness is told until it ends.
func TestOpenTellsWhatIsLeftWhileDraining(t *testing.T) {
	m := meshtest.New(t)
	web, items := m.Workload("web"), m.Workload("items")
	serve(items, echo)
	nc := dial(t, web, items.IP.String()+":8080")
	wantEcho(t, nc)
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error)
	go func() { over <- m.Ztunnel(opened(t, m, "web").Workload.Node).Shutdown(ctx) }()
	m.Until("web is draining", func() bool { return opened(t, m, "web").State == ztunnel.Draining })
	if n := len(opened(t, m, "web").Outbound); n != 1 {
		t.Errorf("got %d outbound connections, want 1", n)
	}
	cancel()
	<-over
}
