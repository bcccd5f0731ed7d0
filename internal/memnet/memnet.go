// Package memnet is a TCP network in memory, for tests.
//
// Its connections have what the data path needs of a kernel's: bounded buffers,
// deadlines, half-close, resets, addresses. They wait on condition variables
// only, so a whole mesh runs inside a synctest bubble. What a test wants a
// network to do to it, it asks for: Stall makes an address fall silent, Segment
// cuts what is read into small pieces.
package memnet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
)

// bufferSize is how much one direction of a connection holds: less than a
// kernel's, so that back-pressure shows in small tests.
const bufferSize = 64 << 10

// A Net is a network. Every address exists in it.
type Net struct {
	mu        sync.Mutex
	change    sync.Cond // a stall ended, a listener closed
	listeners map[netip.AddrPort]*listener
	conns     map[*Conn]struct{}
	stalled   map[netip.Addr]bool
	segment   int
	port      uint16 // the last ephemeral port
}

// New returns an empty network.
func New() *Net {
	n := &Net{
		listeners: map[netip.AddrPort]*listener{},
		conns:     map[*Conn]struct{}{},
		stalled:   map[netip.Addr]bool{},
		port:      32767,
	}
	n.change.L = &n.mu
	return n
}

// Listen listens on a. Port 0 picks one; an unspecified address listens on every
// address which has no listener of its own. Listening twice on an address
// panics.
func (n *Net) Listen(a netip.AddrPort) net.Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a.Port() == 0 {
		a = netip.AddrPortFrom(a.Addr(), n.ephemeral())
	}
	if n.listeners[a] != nil {
		panic(fmt.Sprintf("memnet: listen %s: address in use", a))
	}
	l := &listener{n: n, addr: a}
	n.listeners[a] = l
	return l
}

// Dial connects src to dst; an invalid src is dst's loopback address. It is
// refused when nobody listens, and waits for ctx while either is stalled.
func (n *Net) Dial(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
	if !src.IsValid() {
		src = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if dst.Addr().Is6() {
			src = netip.IPv6Loopback()
		}
	}
	fail := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(dst), Err: err}
	}
	stop := context.AfterFunc(ctx, n.wakeDials)
	defer stop()
	n.mu.Lock()
	defer n.mu.Unlock()
	for ctx.Err() == nil && (n.stalled[src] || n.stalled[dst.Addr()]) {
		n.change.Wait()
	}
	if err := ctx.Err(); err != nil {
		return nil, fail(err)
	}
	l := n.listener(dst)
	if l == nil {
		return nil, fail(syscall.ECONNREFUSED)
	}
	near, far := n.pair(netip.AddrPortFrom(src, n.ephemeral()), dst)
	l.backlog = append(l.backlog, far)
	n.change.Broadcast()
	return near, nil
}

func (n *Net) wakeDials() {
	n.mu.Lock()
	n.change.Broadcast()
	n.mu.Unlock()
}

func (n *Net) listener(a netip.AddrPort) *listener {
	if l := n.listeners[a]; l != nil {
		return l
	}
	for _, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if l := n.listeners[netip.AddrPortFrom(any, a.Port())]; l != nil {
			return l
		}
	}
	return nil
}

// ephemeral counts up, so that an address is not used again soon.
func (n *Net) ephemeral() uint16 {
	if n.port++; n.port < 32768 {
		n.port = 32768
	}
	return n.port
}

// Pipe returns the two ends of a connection from a to b, which nobody listened
// for.
func (n *Net) Pipe(a, b netip.AddrPort) (*Conn, *Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pair(a, b)
}

// Pipe returns the two ends of a connection on a network of its own.
func Pipe() (*Conn, *Conn) {
	ip := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	return New().Pipe(netip.AddrPortFrom(ip, 40000), netip.AddrPortFrom(ip, 80))
}

// pair needs n.mu.
func (n *Net) pair(a, b netip.AddrPort) (near, far *Conn) {
	there, back := newStream(), newStream()
	near = &Conn{n: n, local: a, remote: b, in: back, out: there}
	far = &Conn{n: n, local: b, remote: a, in: there, out: back}
	for _, c := range []*Conn{near, far} {
		n.conns[c] = struct{}{}
		c.in.segment = n.segment
		c.in.stalled = n.stalled[a.Addr()] || n.stalled[b.Addr()]
	}
	return near, far
}

// Segment has every Read return at most size bytes from now on; 0 is no limit.
func (n *Net) Segment(size int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.segment = size
	for c := range n.conns {
		c.in.set(func(s *stream) { s.segment = size })
	}
}

// Stall makes ip fall silent, or speak again: nothing that is sent to it or by
// it arrives, neither bytes nor the ends of connections, and dials to it wait.
func (n *Net) Stall(ip netip.Addr, on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stalled[ip] = on
	for c := range n.conns {
		c.in.set(func(s *stream) { s.stalled = n.stalled[c.local.Addr()] || n.stalled[c.remote.Addr()] })
	}
	n.change.Broadcast()
}

// Open returns how many ends of connections are not closed.
func (n *Net) Open() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.conns)
}

func (n *Net) forget(c *Conn) {
	n.mu.Lock()
	delete(n.conns, c)
	n.mu.Unlock()
}

// A listener is a net.Listener of a Net.
type listener struct {
	n    *Net
	addr netip.AddrPort

	// Guarded by n.mu.
	backlog []*Conn
	closed  bool
}

func (l *listener) Accept() (net.Conn, error) {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	for len(l.backlog) == 0 && !l.closed {
		l.n.change.Wait()
	}
	if l.closed {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
	}
	c := l.backlog[0]
	l.backlog = l.backlog[1:]
	return c, nil
}

// Close resets the connections that were not accepted.
func (l *listener) Close() error {
	l.n.mu.Lock()
	if l.closed {
		l.n.mu.Unlock()
		return &net.OpError{Op: "close", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
	}
	l.closed = true
	delete(l.n.listeners, l.addr)
	left := l.backlog
	l.backlog = nil
	l.n.change.Broadcast()
	l.n.mu.Unlock()
	for _, c := range left {
		_ = c.SetLinger(0)
		_ = c.Close()
	}
	return nil
}

func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }
