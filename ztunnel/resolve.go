package ztunnel

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	namesKept = 10 * time.Second // no TTL is told; a record that changed is followed this fast
	maxNames  = 4096             // as many as Istio's node tunnel keeps
)

// A names looks up the addresses of workloads that are known by their name only,
// and keeps them for a while. It is safe for concurrent use.
type names struct {
	ask func(ctx context.Context, host string) ([]netip.Addr, error)

	mu    sync.Mutex
	known map[string]named // guarded by mu
}

type named struct {
	ips   []netip.Addr
	until time.Time
}

func newNames(ask func(context.Context, string) ([]netip.Addr, error)) *names {
	if ask == nil {
		ask = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	return &names{ask: ask, known: map[string]named{}}
}

// cached returns the addresses of a name that was looked up lately, or nil.
func (n *names) cached(host string, now time.Time) []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	if k := n.known[host]; now.Before(k.until) {
		return k.ips
	}
	return nil
}

// lookup asks for the addresses of a name. It blocks.
func (n *names) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	ips, err := n.ask(ctx, host)
	if err == nil && len(ips) == 0 {
		err = errNoAddress
	}
	if err != nil {
		return nil, fmt.Errorf("look up the destination %s: %w", host, err)
	}
	for i := range ips {
		ips[i] = ips[i].Unmap()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.known) >= maxNames {
		clear(n.known) // rare, and harmless: they are asked for again
	}
	n.known[host] = named{ips, time.Now().Add(namesKept)}
	return ips, nil
}

// lookup has ready called on the loop with the addresses of a name: at least one,
// unless there is an error. It is not called within lookup.
func (w *worker) lookup(host string, ready func([]netip.Addr, error)) (cancel func()) {
	ctx, cancel := context.WithTimeout(context.Background(), w.options.ConnectTimeout)
	if ips := w.names.cached(host, time.Now()); ips != nil {
		w.loop.Do(func() { ready(ips, nil) })
		return cancel
	}
	w.serving.Go(func() {
		defer cancel()
		ips, err := w.names.lookup(ctx, host)
		w.loop.Do(func() { ready(ips, err) })
	})
	return cancel
}

// oneOf picks one of several addresses, of the family of like if there is one.
func oneOf(ips []netip.Addr, like netip.Addr) netip.Addr {
	n := 0
	var pick netip.Addr
	for _, ip := range ips {
		if like.IsValid() && ip.Is4() == like.Is4() {
			if n++; rand.IntN(n) == 0 {
				pick = ip
			}
		}
	}
	if n == 0 {
		pick = ips[rand.IntN(len(ips))]
	}
	return pick
}
