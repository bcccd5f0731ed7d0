package ztunnel

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/waystone-mesh/waystone/internal/identity"
)

// What is refused by a limit: 503 to who asks, so that it may go elsewhere.
var (
	errFull         = errors.New("the node tunnel has as many connections open as it may")
	errIdentityFull = errors.New("the client's identity has as many connections to the pod as it may")
)

// A count is how many connections are open, over all loops.
type count struct{ n atomic.Int64 }

// take counts one in, unless there are limit of them; 0 is no limit.
func (c *count) take(limit int) bool {
	if n := c.n.Add(1); limit > 0 && n > int64(limit) {
		c.n.Add(-1)
		return false
	}
	return true
}

func (c *count) release() { c.n.Add(-1) }

// A quota is how many connections to a pod each client's identity has. The zero
// quota is ready. It holds the identities that have any.
type quota struct {
	mu   sync.Mutex
	open map[identity.ID]int // guarded by mu
}

// take counts one of id's in, unless there are limit of them.
func (q *quota) take(id identity.ID, limit int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.open[id] >= limit {
		return false
	}
	if q.open == nil {
		q.open = map[identity.ID]int{}
	}
	q.open[id]++
	return true
}

func (q *quota) release(id identity.ID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.open[id]--; q.open[id] == 0 {
		delete(q.open, id)
	}
}
