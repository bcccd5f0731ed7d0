package dns

import (
	"net/netip"
	"sync"
)

// A limiter bounds how many things are under way, all together and of one
// client.
type limiter struct {
	all, each int // immutable

	mu     sync.Mutex
	total  int                // guarded by mu
	shares map[netip.Addr]int // guarded by mu; no client has 0
}

func newLimiter(all int) *limiter {
	return &limiter{all: all, each: max(all/8, 1), shares: map[netip.Addr]int{}}
}

// enter counts one more, and reports whether there is room for it. If there is,
// leave is owed.
func (l *limiter) enter(client netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.all || l.shares[client] >= l.each {
		return false
	}
	l.total++
	l.shares[client]++
	return true
}

func (l *limiter) leave(client netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.shares[client]--; l.shares[client] == 0 {
		delete(l.shares, client)
	}
}
