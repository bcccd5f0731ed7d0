package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/telemetry"
)

// What a Server holds at most. Each client may have an eighth of it, so that one
// that floods leaves the others what they need.
const (
	maxForwarding  = 1024 // questions that wait for an upstream server
	maxConnections = 512  // of clients, over TCP: each is a goroutine and 8 KiB
)

// ServerOptions is what a Server is made of. Resolver, Snapshot and Upstream are
// required.
type ServerOptions struct {
	Resolver *Resolver
	Snapshot func() *config.Snapshot

	// Client returns who asks from an address, or nil when that is nobody whom we
	// answer; nil: the workload that has the address.
	Client func(*config.Snapshot, netip.Addr) *mesh.Workload

	// Asked returns which server a client meant to ask, where its questions are
	// redirected here, network being "udp" or "tcp" and here the address that they
	// came to. What is forwarded goes there, in place of Upstream. An error: it is
	// not known. Nil: it never is.
	Asked func(network string, client, here netip.AddrPort) (netip.AddrPort, error)

	// Sockets makes the sockets of a Server; nil: package net does.
	Sockets Sockets

	// Upstream are the servers that are asked what the mesh does not know, in the
	// order in which they are tried.
	Upstream []netip.AddrPort

	Report func(*telemetry.DNS) // is told of every question; nil: nobody is
	Log    *slog.Logger         // discards

	Try, Patience time.Duration // for an upstream server, 2 s, and for all of them, 5 s
	Idle          time.Duration // how long a connection may say nothing: 10 s
}

// Sockets makes sockets: in another network namespace than the process is in.
type Sockets interface {
	Listen(addr netip.AddrPort) (net.Listener, error)
	ListenPacket(addr netip.AddrPort) (*net.UDPConn, error)

	// Dial connects by TCP, DialPacket by UDP.
	Dial(ctx context.Context, dst netip.AddrPort) (net.Conn, error)
	DialPacket(ctx context.Context, dst netip.AddrPort) (net.Conn, error)
}

// here makes sockets where the process is.
type here struct{}

func (here) Listen(addr netip.AddrPort) (net.Listener, error) {
	return net.ListenTCP("tcp", net.TCPAddrFromAddrPort(addr))
}

func (here) ListenPacket(addr netip.AddrPort) (*net.UDPConn, error) {
	return net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
}

func (here) Dial(ctx context.Context, dst netip.AddrPort) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", dst.String())
}

func (here) DialPacket(ctx context.Context, dst netip.AddrPort) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "udp", dst.String())
}

// A Server answers questions over UDP and TCP.
type Server struct {
	options     ServerOptions
	upstream    upstream
	packets     []*net.UDPConn
	listeners   []net.Listener
	forwarding  *limiter
	connections *limiter

	ctx     context.Context // done when what waits is to be given up
	cancel  context.CancelFunc
	serving sync.WaitGroup
}

// Listen opens the sockets of a Server, whose Serve uses and closes them. An
// address must be a single one: an answer has to come from where the question
// went. ::1 beside 127.0.0.1 may be missing.
func Listen(o ServerOptions, addrs ...netip.AddrPort) (_ *Server, err error) {
	o.setDefaults()
	s := &Server{
		options: o, upstream: upstream{o.Try, o.Patience, o.Sockets},
		forwarding: newLimiter(maxForwarding), connections: newLimiter(maxConnections),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if len(o.Upstream) == 0 {
		return nil, errors.New("dns: no server to forward to")
	}
	for _, addr := range addrs {
		if !addr.IsValid() || addr.Addr().IsUnspecified() {
			return nil, fmt.Errorf("dns: %s is not a single address", addr)
		}
		err := s.open(addr)
		if errors.Is(err, syscall.EADDRNOTAVAIL) && addr.Addr() == netip.IPv6Loopback() && len(s.packets) > 0 {
			continue // a machine without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("dns: %w", err)
		}
		if slices.Contains(o.Upstream, s.Addrs()[len(s.packets)-1]) {
			return nil, fmt.Errorf("dns: %s is also the server to forward to: questions would go round for ever", addr)
		}
	}
	return s, nil
}

func (o *ServerOptions) setDefaults() {
	if o.Report == nil {
		o.Report = func(*telemetry.DNS) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Client == nil {
		o.Client = o.Resolver.Client
	}
	if o.Sockets == nil {
		o.Sockets = here{}
	}
	if o.Try == 0 {
		o.Try = 2 * time.Second
	}
	if o.Patience == 0 {
		o.Patience = 5 * time.Second // as long as a stub waits before it asks again
	}
	if o.Idle == 0 {
		o.Idle = 10 * time.Second
	}
}

// open listens at an address. Port 0 is any that is free over both protocols.
func (s *Server) open(addr netip.AddrPort) (err error) {
	for range 16 {
		if err = s.openBoth(addr); addr.Port() != 0 || !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return err
}

// openBoth listens over UDP, and over TCP at the same port.
func (s *Server) openBoth(addr netip.AddrPort) error {
	packets, err := s.options.Sockets.ListenPacket(addr)
	if err != nil {
		return err
	}
	bound := packets.LocalAddr().(*net.UDPAddr).AddrPort()
	ln, err := s.options.Sockets.Listen(netip.AddrPortFrom(addr.Addr(), bound.Port()))
	if err != nil {
		return errors.Join(err, packets.Close())
	}
	s.packets, s.listeners = append(s.packets, packets), append(s.listeners, ln)
	return nil
}

// Addrs returns where the Server listens.
func (s *Server) Addrs() (out []netip.AddrPort) {
	for _, c := range s.packets {
		out = append(out, c.LocalAddr().(*net.UDPAddr).AddrPort())
	}
	return out
}

// Serve answers until ctx is done, and returns when nothing is left running.
func (s *Server) Serve(ctx context.Context) error {
	for i := range s.packets {
		s.serving.Go(func() { s.servePackets(s.packets[i]) })
		s.serving.Go(func() { s.serveConnections(s.listeners[i]) })
	}
	<-ctx.Done()
	s.close()
	s.serving.Wait()
	return nil
}

// close ends what Serve has running.
func (s *Server) close() {
	s.cancel()
	for i := range s.packets {
		s.packets[i].Close()
		s.listeners[i].Close()
	}
}

// pause waits after an error of a socket, which is likely to come again at once,
// and reports whether to go on.
func (s *Server) pause(what string, err error) bool {
	if s.ctx.Err() != nil {
		return false
	}
	s.options.Log.Warn("dns: "+what, "error", err)
	select {
	case <-time.After(100 * time.Millisecond):
		return true
	case <-s.ctx.Done():
		return false
	}
}
