package waypoint_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/meshtest"
	"github.com/waystone-mesh/waystone/waypoint"
	"github.com/waystone-mesh/waystone/ztunnel"
)

// TestClientsAbortMidway gives up ten thousand requests at every stage, over both
// protocols, and looks for what they leave behind. The mesh looks for goroutines
// and buffers once more when it ends.
func TestClientsAbortMidway(t *testing.T) {
	n := 10000
	if testing.Short() || waypoint.RaceOn {
		n = 1000
	}
	// Busy tunnels get connections of their own, which stay for a while: not here.
	m := meshtest.With(t, meshtest.Options{Ztunnel: func(o *ztunnel.Options) { o.PoolSpread = 1 }})
	shop(m, "", func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = w.Write(make([]byte, 1000))
		_ = http.NewResponseController(w).Flush()
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = w.Write(make([]byte, 300<<10))
	})
	clients := []*meshtest.Client{m.From("web"), m.FromHTTP2("web")}
	for _, c := range clients {
		c.Get("http://items/").Want(200)
	}
	before, buffers := runtime.NumGoroutine(), bufs.InUse()
	var wg sync.WaitGroup
	var next atomic.Int64
	for range 16 {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				c := clients[1] // an HTTP/1.1 request that is given up costs its connection
				if i%8 == 0 {
					c = clients[0]
				}
				abortAt(c.HTTP, int(i)%5)
			}
		})
	}
	wg.Wait()
	for _, c := range clients {
		c.Get("http://items/").Want(200) // all is in order still
		c.HTTP.CloseIdleConnections()
	}
	m.Until("buffers are back", func() bool { return bufs.InUse() <= buffers })
	m.Until("goroutines are back", func() bool { return runtime.NumGoroutine() <= before+4 })
}

// abortAt asks, and gives up at a stage.
func abortAt(c *http.Client, stage int) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r, w := io.Pipe()
	defer w.Close()
	context.AfterFunc(ctx, func() { w.CloseWithError(ctx.Err()) }) // or the transport waits for it
	var body io.Reader = r
	if stage == 4 {
		body = nil
	}
	req, _ := http.NewRequestWithContext(ctx, "POST", "http://items/", body)
	switch stage {
	case 0: // when the request has begun
		go func() {
			_, _ = w.Write(make([]byte, 100))
			cancel()
		}()
	case 1: // in the middle of its content
		go func() {
			_, _ = w.Write(make([]byte, 100<<10))
			cancel()
		}()
	case 2, 3: // in the middle of the response
		go func() { _, _ = w.Write(make([]byte, 100)) }()
	}
	resp, err := c.Do(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	if stage == 3 {
		w.Close()
	}
	_, _ = io.ReadFull(resp.Body, make([]byte, []int{0, 0, 500, 100 << 10, 0}[stage]))
}

// TestSlowReaders has a hundred clients take nothing of what they asked for while
// others work: what is held is what the windows allow.
func TestSlowReaders(t *testing.T) {
	const slow = 100
	size := 64 << 20
	if waypoint.RaceOn {
		size = 4 << 20
	}
	m := meshtest.New(t)
	shop(m, "", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/huge" {
			meshtest.Echo(w, r)
			return
		}
		w.Header().Set("content-length", fmt.Sprint(size))
		block := bytes.Repeat([]byte("0123456789abcdef"), 4096)
		for range size / len(block) {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	})
	clients := []*meshtest.Client{m.From("web"), m.FromHTTP2("web")}
	for _, c := range clients {
		c.HTTP.Timeout = 0
	}
	var stuck []*http.Response
	for i := range slow {
		resp, err := clients[i%2].HTTP.Get("http://items/huge")
		if err != nil {
			t.Fatal(err)
		}
		stuck = append(stuck, resp)
	}
	for i := range 500 {
		clients[i%2].Post("http://items/", strings.Repeat("x", 10<<10)).Want(200)
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	// Three proxies hold a window each, and the waypoint's inner HTTP/2 another.
	if got, most := bufs.InUse(), int64(slow*4*(256<<10)+(16<<20)); got > most {
		t.Errorf("%d MiB of buffers are out, want at most %d", got>>20, most>>20)
	}
	t.Logf("%d MiB of buffers, %d MiB of heap", bufs.InUse()>>20, mem.HeapInuse>>20)
	n, err := io.Copy(io.Discard, stuck[0].Body)
	if err != nil || n != int64(size) {
		t.Errorf("a slow reader that wakes up got %d bytes and %v", n, err)
	}
	for _, resp := range stuck {
		resp.Body.Close()
	}
}

// TestOutOfBuffers sheds requests once the budget is spent, and takes them again
// when it is not.
func TestOutOfBuffers(t *testing.T) {
	m := meshtest.New(t)
	shop(m, "http", meshtest.Echo)
	c := m.From("web")
	c.Get("http://items/").Want(200)
	var held []*bufs.Buffer
	for range (256<<20)/bufs.Large + 1 {
		held = append(held, bufs.Get(bufs.Large))
	}
	c.Get("http://items/").Want(503)
	for _, b := range held {
		b.Free()
	}
	c.Get("http://items/").Want(200)
	m.WantMetric(`istio_requests_total{reporter="waypoint",response_code="503",response_flags="OM"}`, 1)
	m.WantLog("response_code", 503, "response_flags", "OM")
}

// TestOutOfBuffersForTunnels sheds opaque tunnels likewise: their clients see a
// connection that is refused.
func TestOutOfBuffersForTunnels(t *testing.T) {
	m := meshtest.New(t)
	web := m.Workload("web")
	m.Workload("items").Serve(meshtest.Echo)
	m.Service("items", 80).Protocol("tcp").Waypoint()
	var held []*bufs.Buffer
	for range (256<<20)/bufs.Large + 1 {
		held = append(held, bufs.Get(bufs.Large))
	}
	if nc, err := web.Dial(t.Context(), "items:80"); err == nil {
		nc.Close()
		t.Error("a tunnel was opened with the budget spent")
	}
	for _, b := range held {
		b.Free()
	}
	nc, err := web.Dial(t.Context(), "items:80")
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	m.WantLog("response_flags", "OM", "method", nil)
}
