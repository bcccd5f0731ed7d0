package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/inner"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/loop"
)

// A Destination answers what a Load asks: the flags of `waystone bench dest`.
// The zero value of a field stands for what its comment has in brackets.
//
// Every protocol is served on every port and told by its first bytes. It answers
// with as much content as the request's x-bench-size says, none if it says
// nothing, and with the CRC-32C of the content that came.
type Destination struct {
	Listen    string // the address and port [127.0.0.1:15008]
	Transport string // hbone, or tcp: the same without tunnels and TLS [hbone]

	// Identity, As and TrustDomain are as in [Load]; whoever has a certificate
	// of the trust domain may ask [default/items; cluster.local].
	Identity, As, TrustDomain string

	Loops  int           // [1]
	Status int           // of the answers to HTTP [200]
	Delay  time.Duration // before an answer to HTTP/1.1

	source identity.Source // for tests
}

// Served is what a Destination has done.
type Served struct {
	Requests      int64            `json:"requests"`
	BytesReceived int64            `json:"bytesReceived"` // of content
	BytesSent     int64            `json:"bytesSent"`
	Accepted      int64            `json:"accepted"` // tunnels and connections, since the start
	Open          int64            `json:"open"`     // of them now: none, if nothing leaks
	Errors        map[string]int64 `json:"errors"`   // kinds as in [Run]
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
	bad(err != nil, "listen", "%q is not an IP address and a port", d.Listen)
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
	s := &serving{Destination: d, loops: loops, places: map[*loop.Loop]*place{}}
	for _, l := range loops.Loops() {
		s.places[l] = newPlace(s, l)
	}
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
	})
	var g errgroup.Group
	g.Go(func() error { return srv.Serve(ln) })
	<-ctx.Done()
	late, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = srv.Shutdown(late) // what is left is counted as open
	return g.Wait()
}

func (s *serving) serveTCP(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	for {
		nc, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		l := s.loops.Pick()
		l.Do(func() {
			p := s.places[l]
			first := p.begin()
			t := loop.NewTCP(l, loop.Plain(nc), 0, first)
			first.attach(t, t.SetReceiver)
		})
	}
}

// total gathers what every loop has counted.
func (s *serving) total() *Served {
	sum := &Served{Errors: map[string]int64{}}
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

// A place is what one loop serves and has counted.
type place struct {
	*serving
	loop   *loop.Loop
	inners *inner.Set
	timer  loop.Timer
	served Served

	known   body           // the last of crcOf
	text    string         // the last of textOf
	textFor uint32         // what it is the text of
	scratch [16 << 10]byte // to unmask in
}

func newPlace(s *serving, l *loop.Loop) *place {
	p := &place{serving: s, loop: l, inners: inner.NewSet(l, h2.Options{MaxStreams: maxConcurrency})}
	p.served.Errors = map[string]int64{}
	p.timer.F = p.tick
	l.Do(p.tick)
	return p
}

func (p *place) tick() {
	p.inners.Tick(p.loop.Now())
	p.loop.After(&p.timer, time.Second)
}

// accept answers a CONNECT, whatever its authority.
func (p *place) accept(in *hbone.Incoming) {
	first := p.begin()
	t := in.Accept(first, nil)
	first.attach(t, t.SetReceiver)
}

func (p *place) begin() *sniffer {
	p.served.Accepted++
	p.served.Open++
	return &sniffer{p: p}
}

// gone counts the end of a stream, and what is wrong with it.
func (p *place) gone(err error) {
	p.served.Open--
	p.failed(err)
}

// failed counts an error, if it is one.
func (p *place) failed(err error) {
	if err != nil {
		p.served.Errors[kindOf(err)]++
	}
}

// took counts a request, and checks the content that came with it.
func (p *place) took(got body) {
	p.served.Requests++
	p.served.BytesReceived += got.n
	if got.n > 0 && got.crc != p.crcOf(got.n) {
		p.served.Errors[kindCRC]++
	}
}

// crcOf is contentCRC, which it remembers: requests are mostly of one size.
func (p *place) crcOf(n int64) uint32 {
	if p.known.n != n {
		p.known = body{n: n, crc: contentCRC(n)}
	}
	return p.known.crc
}

// textOf is crcText likewise.
func (p *place) textOf(crc uint32) string {
	if p.text == "" || p.textFor != crc {
		p.text, p.textFor = crcText(crc), crc
	}
	return p.text
}

// sizeOf returns how much content a request asks for, and whether that can be
// understood.
func sizeOf(f l7.Fields) (n int64, ok bool) {
	v := f.Get(sizeField)
	if v == "" {
		return 0, true
	}
	n, err := strconv.ParseInt(v, 10, 64)
	return n, err == nil && n >= 0 && n <= maxContent
}
