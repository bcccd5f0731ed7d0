package zdstest

import (
	"errors"
	"net"
	"os"
	"slices"
	"sync"

	"github.com/waystone-mesh/waystone/internal/zds/zdsapi"
)

// An Agent does as istio-cni does: it tells every tunnel that connects of all
// pods, later ones to the tunnel that came last, and of those that go to all.
type Agent struct {
	ln     *net.UnixListener
	served sync.WaitGroup

	changed *sync.Cond

	mu      sync.Mutex
	pods    map[string]pod // guarded by mu
	conns   []*Conn        // that have had their snapshot, the newest last; guarded by mu
	greeted int            // how many had; guarded by mu
	closed  bool           // guarded by mu
}

type pod struct {
	message *zdsapi.WorkloadRequest
	netns   *os.File // nil: not known
}

// NewAgent returns an agent that does not listen yet.
func NewAgent() *Agent {
	a := &Agent{pods: map[string]pod{}}
	a.changed = sync.NewCond(&a.mu)
	return a
}

// Listen begins to listen at path.
func (a *Agent) Listen(path string) error {
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return err
	}
	a.ln = ln
	a.served.Go(a.accept)
	return nil
}

// Close ends the agent and its connections.
func (a *Agent) Close() {
	if a.ln != nil {
		a.ln.Close()
	}
	a.mu.Lock()
	a.closed = true
	for _, c := range a.conns {
		c.Close()
	}
	for _, p := range a.pods {
		p.netns.Close()
	}
	a.changed.Broadcast()
	a.mu.Unlock()
	a.served.Wait()
}

func (a *Agent) accept() {
	for {
		c, err := Accept(a.ln)
		if err != nil {
			return
		}
		a.greet(c)
	}
}

// greet tells a tunnel of all pods.
func (a *Agent) greet(c *Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || c.Hello() != nil || a.tellLocked(c) != nil {
		c.Close()
		return
	}
	a.conns = append(a.conns, c)
	a.greeted++
	a.changed.Broadcast()
}

func (a *Agent) tellLocked(c *Conn) error {
	for uid, p := range a.pods {
		var err error
		if p.netns == nil {
			_, err = c.Send(Keep(uid))
		} else {
			_, err = c.Send(p.message, int(p.netns.Fd()))
		}
		if err != nil {
			return err
		}
	}
	_, err := c.Send(Snapshot())
	return err
}

// WaitFor waits until so many tunnels, in all, have had their snapshot.
func (a *Agent) WaitFor(tunnels int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.greeted < tunnels && !a.closed {
		a.changed.Wait()
	}
}

// Add tells the newest tunnel of a pod whose network namespace is at path, and
// returns its refusal, if any. Without a tunnel the pod is told of later.
func (a *Agent) Add(uid, namespace, name, serviceAccount, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pods[uid].netns.Close() // of a nil file is an error and no more
	p := pod{Add(uid, namespace, name, serviceAccount), f}
	a.pods[uid] = p
	for len(a.conns) > 0 {
		last := len(a.conns) - 1
		refused, err := a.conns[last].Send(p.message, int(f.Fd()))
		if err == nil && refused != "" {
			return errors.New(refused)
		}
		if err == nil {
			return nil
		}
		a.conns[last].Close() // it has gone
		a.conns = a.conns[:last]
	}
	return nil
}

// Remove tells every tunnel that a pod is gone.
func (a *Agent) Remove(uid string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pods[uid].netns.Close()
	delete(a.pods, uid)
	var all error
	a.conns = slices.DeleteFunc(a.conns, func(c *Conn) bool {
		refused, err := c.Send(Del(uid))
		if err != nil {
			c.Close()
		} else if refused != "" {
			all = errors.Join(all, errors.New(refused))
		}
		return err != nil
	})
	return all
}
