package hbone

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/loop"
)

// ServerOptions is how a [Server] is set up. Self, Identity, Loops and Connect
// must be set; the zero value of the others stands for its default.
type ServerOptions struct {
	// Self returns who we are to those who connect to local. It is called from
	// any goroutine.
	Self func(local netip.AddrPort) identity.ID

	Identity identity.Source
	Aliases  []string // trust domains accepted beside Self's own
	Loops    *loop.Group

	// Connect is given every CONNECT, on the loop of its connection.
	Connect func(*Incoming)

	H2 h2.Options // tunes the connections

	// NotConnect is the status for other methods; 0: 400. A waypoint has no
	// route for them: 404.
	NotConnect int

	// ResetIsEOF takes a client's RST_STREAM with NO_ERROR or CANCEL for the end
	// of its direction, as Istio's node tunnels do: a tunnel that only its reader
	// still needs then ends in order, and a writer is told of the reset. Without
	// it every reset is a Reset, at once.
	ResetIsEOF bool

	// MaxAge is when a connection begins to drain so that its client spreads
	// anew; each has its own, up to a tenth more or less. 0: never.
	MaxAge time.Duration

	// IdleTimeout is how long a connection without tunnels is kept; 0: an hour;
	// negative: for ever.
	IdleTimeout time.Duration

	// HandshakeTimeout bounds the handshake, and then again the time until the
	// client's SETTINGS; 0: 10 s.
	HandshakeTimeout time.Duration

	// MaxHandshakes is how many handshakes may run at a time. Further clients
	// wait in the listener's backlog. 0: 1024.
	MaxHandshakes int

	// MaxConns is how many connections a listener may have open; those beyond
	// are closed at once. 0: 16384.
	MaxConns int

	Events Events
}

var (
	errSilent   = errors.New("hbone: the peer sent no SETTINGS in time")
	errMaxConns = errors.New("hbone: the listener has as many connections as it may")
)

// A Server terminates HBONE connections.
type Server struct {
	// Immutable.
	o     ServerOptions
	loops map[*loop.Loop]*serverLoop
	slots chan struct{} // one for each handshake

	// Guarded by mu.
	mu        sync.Mutex
	stopping  bool
	listeners map[net.Listener]struct{}

	accepting sync.WaitGroup     // accept loops
	stop      context.CancelFunc // cuts handshakes short
	ctx       context.Context
	wg        sync.WaitGroup // accept loops and handshakes
	open      atomic.Int64   // connections and handshakes
	idle      chan struct{}  // capacity 1: open has become 0
}

// A serverLoop is a server's connections on one loop, which owns it.
type serverLoop struct {
	loop     *loop.Loop
	conns    map[*serverConn]struct{}
	timer    loop.Timer
	draining bool // connections that come do, too
}

// A serverConn is one connection of a server.
type serverConn struct {
	conn
	about  *Connection
	srv    *Server
	on     *serverLoop
	onPort *atomic.Int64 // connections of its listener
}

// NewServer returns a server that listens to nothing yet.
func NewServer(o ServerOptions) *Server {
	o.Events = o.Events.orSilent()
	if o.NotConnect == 0 {
		o.NotConnect = 400
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = time.Hour
	}
	if o.HandshakeTimeout <= 0 {
		o.HandshakeTimeout = 10 * time.Second
	}
	if o.MaxHandshakes <= 0 {
		o.MaxHandshakes = 1024
	}
	if o.MaxConns <= 0 {
		o.MaxConns = 16384
	}
	srv := &Server{
		o: o, loops: map[*loop.Loop]*serverLoop{}, slots: make(chan struct{}, o.MaxHandshakes),
		listeners: map[net.Listener]struct{}{}, idle: make(chan struct{}, 1),
	}
	srv.ctx, srv.stop = context.WithCancel(context.Background())
	for _, l := range o.Loops.Loops() {
		on := &serverLoop{loop: l, conns: map[*serverConn]struct{}{}}
		on.timer.F = func() { on.tick(srv) }
		srv.loops[l] = on
	}
	return srv
}

// Serve accepts connections until ln fails or [Server.Shutdown] closes it,
// which is no error. It may be called several times.
func (srv *Server) Serve(ln net.Listener) error {
	srv.mu.Lock()
	if srv.stopping {
		srv.mu.Unlock()
		ln.Close()
		return nil
	}
	srv.listeners[ln] = struct{}{}
	srv.wg.Add(1)
	srv.accepting.Add(1)
	srv.mu.Unlock()
	defer srv.wg.Done()
	defer srv.accepting.Done()
	err := srv.accept(ln, new(atomic.Int64))
	srv.mu.Lock()
	defer srv.mu.Unlock()
	delete(srv.listeners, ln)
	if srv.stopping {
		return nil
	}
	ln.Close()
	return fmt.Errorf("hbone: accept on %v: %w", ln.Addr(), err)
}

func (srv *Server) accept(ln net.Listener, onPort *atomic.Int64) error {
	wait := time.Duration(0)
	for {
		nc, err := ln.Accept()
		if err != nil {
			if t, ok := errors.AsType[interface {
				error
				Temporary() bool
			}](err); !ok || !t.Temporary() {
				return err
			}
			// Out of descriptors, most likely: some will be closed.
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			select {
			case <-time.After(wait):
			case <-srv.ctx.Done():
			}
			continue
		}
		wait = 0
		if onPort.Add(1) > int64(srv.o.MaxConns) {
			onPort.Add(-1)
			srv.o.Events.HandshakeFailed(addrPort(nc.RemoteAddr()), errMaxConns)
			nc.Close()
			continue
		}
		select {
		case srv.slots <- struct{}{}:
		case <-srv.ctx.Done():
		}
		srv.open.Add(1)
		srv.wg.Add(1)
		go srv.handshake(nc, onPort)
	}
}

// handshake runs on a goroutine of its own: half a millisecond of signatures
// must not hold a loop, nor a slow client anyone.
func (srv *Server) handshake(nc net.Conn, onPort *atomic.Int64) {
	defer srv.wg.Done()
	remote, local := addrPort(nc.RemoteAddr()), addrPort(nc.LocalAddr())
	ctx, cancel := context.WithTimeout(srv.ctx, srv.o.HandshakeTimeout)
	defer cancel()
	self := srv.o.Self(local)
	sock, err := loop.Handshake(ctx, nc, identity.ServerConfig(srv.o.Identity, self, srv.o.Aliases...), loop.ServerSide)
	select {
	case <-srv.slots:
	default: // none was taken: we are being cut short
	}
	var peer identity.ID
	if err == nil {
		if peer, err = identity.PeerID(sock.TLS()); err != nil {
			sock.Abort(err)
		}
	}
	if err != nil {
		srv.failed(remote, onPort, err)
		return
	}
	on := srv.loops[srv.o.Loops.Pick()]
	on.loop.Do(func() { srv.adopt(on, sock, peer, onPort) })
}

// failed counts a connection out that came to nothing.
func (srv *Server) failed(remote netip.AddrPort, onPort *atomic.Int64, err error) {
	srv.o.Events.HandshakeFailed(remote, fmt.Errorf("hbone: handshake with %v: %w", remote, err))
	onPort.Add(-1)
	srv.closed()
}

// adopt begins to serve a connection, on its loop.
func (srv *Server) adopt(on *serverLoop, sock *loop.Socket, peer identity.ID, onPort *atomic.Int64) {
	if err := distrusted(srv.o.Identity, sock); err != nil {
		srv.failed(sock.RemoteAddr(), onPort, err)
		return
	}
	now := on.loop.Now()
	c := &serverConn{
		conn:  conn{loop: on.loop, sock: sock, peer: peer, lenient: srv.o.ResetIsEOF, began: now, idle: now},
		about: &Connection{Peer: peer, Source: sock.RemoteAddr(), Local: sock.LocalAddr(), Loop: on.loop},
		srv:   srv, on: on, onPort: onPort,
	}
	o := srv.o.H2
	o.Wake = sock.Wake
	if srv.o.MaxAge > 0 {
		o.MaxAge = time.Duration(float64(srv.o.MaxAge) * (0.9 + 0.2*rand.Float64()))
	}
	c.h2 = h2.New(h2.Server, o, c, now)
	on.conns[c] = struct{}{}
	srv.o.Events.Opened(sock.RemoteAddr(), peer)
	on.loop.Adopt(sock, driver{c.h2, &c.conn})
	if on.draining {
		c.drain()
	}
	if !on.timer.Armed() {
		on.loop.After(&on.timer, tickEvery)
	}
}

// Headers implements [h2.Handler].
func (c *serverConn) Headers(s *h2.Stream, f l7.Fields, end bool) {
	c.touched()
	con, err := ParseConnect(f)
	if err != nil {
		status := 400
		if errors.Is(err, errNotConnect) {
			status = c.srv.o.NotConnect
		}
		refuse(s, status)
		return
	}
	t := &Tunnel{c: &c.conn, s: s, eof: end, heldEOF: end}
	t.in = &Incoming{Connect: con, Connection: c.about, t: t}
	s.Value = t
	c.srv.o.Connect(t.in)
}

// Reset implements [h2.Handler].
func (c *serverConn) Reset(s *h2.Stream, err error) {
	c.touched()
	t, ok := s.Value.(*Tunnel)
	if !ok {
		return
	}
	if in := t.in; in != nil {
		t.gone, t.heldEOF, t.heldErr = true, false, err
		t.clear()
		if f := in.onCancel; f != nil {
			in.onCancel = nil
			f()
		}
		return
	}
	t.reset(err)
}

// Changed implements [h2.Handler].
func (c *serverConn) Changed() { c.touched() }

// Closed implements [h2.Handler].
func (c *serverConn) Closed(err error) {
	c.closing = true
	delete(c.on.conns, c)
	c.onPort.Add(-1)
	c.srv.o.Events.Closed(c.sock.RemoteAddr(), c.peer, err)
	c.srv.closed()
}

// tick runs once a second as long as the loop has a connection.
func (on *serverLoop) tick(srv *Server) {
	now := on.loop.Now()
	for c := range on.conns {
		c.tick(now, srv.o.HandshakeTimeout, srv.o.IdleTimeout)
	}
	if len(on.conns) > 0 {
		on.loop.After(&on.timer, tickEvery)
	}
}

// closed counts a connection, or a handshake that came to nothing, out.
func (srv *Server) closed() {
	if srv.open.Add(-1) == 0 {
		select {
		case srv.idle <- struct{}{}:
		default:
		}
	}
}

// Open returns how many connections there are, handshakes included.
func (srv *Server) Open() int { return int(srv.open.Load()) }

// each runs f for every loop, on it, and does not wait.
func (srv *Server) each(f func(*serverLoop)) {
	for _, on := range srv.loops {
		on.loop.Do(func() { f(on) })
	}
}

// addrPort returns a as an address and port, or neither when it is of another
// kind.
func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
