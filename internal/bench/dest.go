package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/loop"
)

// A Destination answers what a Load asks: the flags of `waystone bench dest`.
// The zero value of a field stands for what its comment has in brackets.
//
// Every protocol is served on every port and told by its first bytes. It answers
// with as much content as the request's x-bench-size says, none if it says
// nothing, and with the CRC-32C of the content that came. Content is written as
// it is read: of an answer of a gibibyte, a fraction of a mebibyte is in memory.
type Destination struct {
	Listen    string // the address and port [127.0.0.1:15008]
	Transport string // hbone, or tcp: the same without tunnels and TLS [hbone]

	// Identity, As and TrustDomain are as in [Load]; whoever has a certificate
	// of the trust domain may ask [default/items; cluster.local].
	Identity, As, TrustDomain string

	Loops  int           // [1]
	Status int           // of answers; with another than 200, gRPC calls and WebSockets are refused so [200]
	Delay  time.Duration // from the end of a request to the beginning of its answer

	source identity.Source // for tests
}

// Served is what a Destination has done.
type Served struct {
	Requests      int64 `json:"requests"`
	BytesReceived int64 `json:"bytesReceived"` // of content
	BytesSent     int64 `json:"bytesSent"`

	Connections int64 `json:"connections"` // that were made: HBONE's, or TCP's
	Accepted    int64 `json:"accepted"`    // tunnels; over TCP, each connection is as one
	Open        int64 `json:"open"`        // of them, a second after the end: none, if nothing leaks

	Errors map[string]int64 `json:"errors"` // kinds as in [Run], and failed handshakes
}

// JSON returns s as an indented object.
func (s *Served) JSON() []byte {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // it is numbers and strings
	}
	return append(b, '\n')
}

func (d Destination) withDefaults() Destination {
	set(&d.Listen, "127.0.0.1:15008")
	set(&d.Transport, overHBONE)
	set(&d.As, "default/items")
	set(&d.TrustDomain, "cluster.local")
	set(&d.Loops, 1)
	set(&d.Status, 200)
	return d
}

// Check reports everything that Serve would not accept, by the names of the
// flags.
func (d Destination) Check() error {
	d = d.withDefaults()
	var errs []error
	bad := func(wrong bool, flag, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf("flag --"+flag+": "+format, args...))
		}
	}
	_, err := netip.ParseAddrPort(d.Listen)
	bad(err != nil && !strings.HasPrefix(d.Listen, ":"), "listen", "%q is not an IP address and a port", d.Listen)
	bad(d.Transport != overHBONE && d.Transport != overTCP, "transport", "%q is none of %s", d.Transport, strings.Join([]string{overHBONE, overTCP}, ", "))
	if d.Transport == overHBONE {
		bad(d.Identity == "" && d.source == nil, "identity", "is required for --transport hbone: %s", identity.Forms)
		_, err = (&Load{TrustDomain: d.TrustDomain}).id(d.As)
		bad(err != nil, "as", "%q: %w", d.As, err)
	}
	bad(d.Loops < 1 || d.Loops > maxLoops, "loops", "%d is not 1 to %d", d.Loops, maxLoops)
	bad(d.Status < 200 || d.Status > 599, "status", "%d is not 200 to 599", d.Status)
	bad(d.Delay < 0, "delay", "%v is negative", d.Delay)
	return errors.Join(errs...)
}

// Serve serves until ctx ends, and returns what was served. ready is called
// with the address once it listens; it may be nil.
func (d Destination) Serve(ctx context.Context, ready func(net.Addr)) (served *Served, err error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	d = d.withDefaults()
	loops, err := loop.NewGroup(d.Loops, loop.Options{})
	if err != nil {
		return nil, err
	}
	defer loops.Close()
	s := newServing(d, loops)
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", d.Listen)
	if err != nil {
		return nil, fmt.Errorf("flag --listen: %w", err)
	}
	if ready != nil {
		ready(ln.Addr())
	}
	if d.Transport == overTCP {
		err = s.serveTCP(ctx, ln)
	} else {
		err = s.serveHBONE(ctx, ln)
	}
	return s.total(), err
}

// serving is a Destination at work.
type serving struct {
	Destination
	loops  *loop.Group
	places map[*loop.Loop]*place // by loop; not changed

	conns, handshakes atomic.Int64   // made; failed
	total             func() *Served // of when it is first called
}

func newServing(d Destination, loops *loop.Group) *serving {
	s := &serving{Destination: d, loops: loops, places: map[*loop.Loop]*place{}}
	s.total = sync.OnceValue(s.sum)
	for _, l := range loops.Loops() {
		s.places[l] = newPlace(s, l)
	}
	return s
}

// patience is how long tunnels may take to end when the destination does: 1 s.
const patience = time.Second

func (s *serving) serveHBONE(ctx context.Context, ln net.Listener) error {
	self, err := (&Load{TrustDomain: s.TrustDomain}).id(s.As)
	if err != nil {
		return err
	}
	source := s.source
	if source == nil {
		if source, err = identity.Open(s.Identity, identity.Options{TrustDomain: s.TrustDomain}); err != nil {
			return fmt.Errorf("flag --identity: %w", err)
		}
	}
	srv := hbone.NewServer(hbone.ServerOptions{
		Self:     func(netip.AddrPort) identity.ID { return self },
		Identity: source, Loops: s.loops,
		H2:      h2.Options{MaxStreams: maxTunnels},
		Connect: func(in *hbone.Incoming) { s.places[in.Loop].accept(in) },
		Events: hbone.Events{
			Opened:          func(netip.AddrPort, identity.ID) { s.conns.Add(1) },
			HandshakeFailed: func(netip.AddrPort, error) { s.handshakes.Add(1) },
		},
	})
	var g errgroup.Group
	g.Go(func() error { return srv.Serve(ln) })
	<-ctx.Done()
	// What is open when patience ends is counted before it is cut.
	late, cut := context.WithCancel(context.Background())
	defer cut()
	defer time.AfterFunc(patience, func() {
		s.total()
		cut()
	}).Stop()
	_ = srv.Shutdown(late)
	return g.Wait()
}

func (s *serving) serveTCP(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	for {
		nc, err := ln.Accept()
		if err != nil {
			if ctx.Err() == nil {
				return err
			}
			s.wait()
			return nil
		}
		s.conns.Add(1)
		l := s.loops.Pick()
		l.Do(func() {
			p := s.places[l]
			first := p.begin()
			t := loop.NewTCP(l, loop.Plain(nc), 0, first)
			first.attach(t, t.SetReceiver)
		})
	}
}

// wait waits until every connection has ended, for as long as patience.
func (s *serving) wait() {
	for range patience / (10 * time.Millisecond) {
		if s.sum().Open == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// sum gathers what every loop has counted.
func (s *serving) sum() *Served {
	sum := &Served{Connections: s.conns.Load(), Errors: map[string]int64{}}
	if n := s.handshakes.Load(); n > 0 {
		sum.Errors[kindHandshake] = n
	}
	for l, p := range s.places {
		done := make(chan struct{})
		l.Do(func() {
			defer close(done)
			sum.Requests += p.served.Requests
			sum.BytesReceived += p.served.BytesReceived
			sum.BytesSent += p.served.BytesSent
			sum.Accepted += p.served.Accepted
			sum.Open += p.served.Open
			for kind, n := range p.served.Errors {
				sum.Errors[kind] += n
			}
		})
		<-done
	}
	return sum
}

// The kinds of errors that only a destination counts.
const (
	kindHandshake  = "handshake"      // an HBONE connection that was not made
	kindGRPCMethod = "unknown method" // a gRPC call to whatever else
)
