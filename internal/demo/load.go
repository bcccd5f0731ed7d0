package demo

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/waystone-mesh/waystone/examples/bookinfo"
)

// A load is requests in the background that every step of the walk-through
// allows. It counts what is lost: no answer, an answer other than 200, or a page
// that lacks what another service should have told.
type load struct {
	stop    context.CancelFunc
	running sync.WaitGroup

	mu    sync.Mutex
	kinds []*kind
	lost  []string // the first few, told
}

// A kind of load is a way to send requests. Each has loadClients clients.
type kind struct {
	name  string
	sent  int // guarded by the load's mu
	lost  int
	worst time.Duration
}

// The clients of a kind, and the pause between two requests of each: three kinds
// make 120 requests a second, which call 500 others.
const (
	loadClients = 2
	loadEvery   = 50 * time.Millisecond
)

// startLoad sends requests as the pod at ip, and from outside to the ingress.
func startLoad(ctx context.Context, ip, url, ingress string) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{stop: cancel}
	once := bookinfo.Transport(ip)
	once.DisableKeepAlives = true
	l.run(ctx, "a connection each", once, url)
	l.run(ctx, "kept connections", bookinfo.Transport(ip), url)
	l.run(ctx, "through the ingress", &http.Transport{}, ingress)
	return l
}

func (l *load) run(ctx context.Context, name string, t *http.Transport, url string) {
	k := &kind{name: name}
	l.kinds = append(l.kinds, k)
	for range loadClients {
		l.running.Go(func() { l.repeat(ctx, k, t, url) })
	}
}

func (l *load) repeat(ctx context.Context, k *kind, t *http.Transport, url string) {
	defer t.CloseIdleConnections()
	tick := time.NewTicker(loadEvery)
	defer tick.Stop()
	for {
		// A request that has begun is finished: it must not be lost to us.
		l.one(context.WithoutCancel(ctx), k, t, url)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (l *load) one(ctx context.Context, k *kind, t http.RoundTripper, url string) {
	start := time.Now()
	a := bookinfo.AskOver(ctx, t, http.MethodGet, url)
	took := time.Since(start)
	l.mu.Lock()
	defer l.mu.Unlock()
	k.sent++
	k.worst = max(k.worst, took)
	if why := lost(a); why != "" {
		k.lost++
		if len(l.lost) < 10 {
			l.lost = append(l.lost, fmt.Sprintf("%s %s: %s", start.UTC().Format("15:04:05.000"), k.name, why))
		}
	}
}

// lost says why an answer is none, or "".
func lost(a bookinfo.Answer) string {
	switch {
	case a.Err != nil:
		return a.Err.Error()
	case a.Status != http.StatusOK:
		return fmt.Sprintf("%d %q", a.Status, firstLine(a.Body))
	case !bookinfo.Whole(a.Body):
		return "the page lacks a part"
	}
	return ""
}

// finish stops the load and returns its totals.
func (l *load) finish() (kinds []kind, lost []string) {
	l.stop()
	l.running.Wait()
	for _, k := range l.kinds {
		kinds = append(kinds, *k)
	}
	return kinds, l.lost
}
