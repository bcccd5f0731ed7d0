// Command h2proxy is a plain reverse proxy on the waypoint's codecs, loop, policies, routes,
// access log and metrics, to be compared with reverse proxies under a generator that
// knows no HBONE.
//
//	HTTP/2 over TLS, or HTTP/1.1 ─► client ─► exchange ─► origin ─► the same, of one server
//
// It is no product, and leaves out what a waypoint does around a request: retries,
// time limits, drains, upgrades, normalisation of paths, shedding of load. Its
// policy takes every client for the same one, for generators have no certificates.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/waystone-mesh/waystone/internal/admin"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/telemetry"
)

// handshakeTimeout bounds a client's handshake: 10 s, as a waypoint's.
const handshakeTimeout = 10 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "h2proxy:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	listen, upstream  string
	http1             bool // of the upstream: HTTP/1.1 without TLS
	cert, key, root   string
	access, telemetry string
	loops             int
}

func run(ctx context.Context, args []string) error {
	var o options
	set := flag.NewFlagSet("h2proxy", flag.ContinueOnError)
	set.StringVar(&o.listen, "listen", "127.0.0.1:8443", "where clients connect")
	set.StringVar(&o.upstream, "upstream", "", "the one server, an address and a port")
	set.BoolVar(&o.http1, "upstream-http1", false, "speak HTTP/1.1 to it, without TLS, rather than HTTP/2 over TLS")
	set.StringVar(&o.cert, "cert", "", "our certificate; with none, clients speak HTTP/1.1 without TLS")
	set.StringVar(&o.key, "key", "", "its key")
	set.StringVar(&o.root, "root", "", "who has signed the server's")
	set.StringVar(&o.access, "access-log", "/dev/null", "a file")
	set.StringVar(&o.telemetry, "metrics", "127.0.0.1:15020", "where metrics are served")
	set.IntVar(&o.loops, "loops", 1, "cores that may be used")
	if err := set.Parse(args); err != nil {
		return err
	}
	log, err := telemetry.NewWriter(telemetry.WriterOptions{Path: o.access})
	if err != nil {
		return err
	}
	t, err := telemetry.New(telemetry.Options{AccessLog: log, Trace: telemetry.TraceOptions{Percent: -1}})
	if err != nil {
		return err
	}
	group, err := loop.NewGroup(o.loops, loop.Options{})
	if err != nil {
		return err
	}
	p, err := newProxy(&o, t, group)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	questions, err := admin.Listen(admin.Options{Admin: admin.Off, Health: admin.Off, Metrics: o.telemetry, Gatherer: t.Metrics()})
	if err != nil {
		return err
	}
	done := make(chan error, 2)
	go func() { done <- questions.Serve() }()
	go func() { done <- p.serve(ctx, ln) }()
	select {
	case <-ctx.Done():
	case err = <-done:
	}
	ln.Close()
	group.Close()
	end, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return errors.Join(err, questions.Shutdown(end), t.Shutdown(end), log.Close(end))
}

// serve accepts clients until ln is closed.
func (p *proxy) serve(ctx context.Context, ln net.Listener) error {
	for {
		nc, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		go p.accept(nc)
	}
}

// accept makes a client of a connection, after its handshake if there is one.
func (p *proxy) accept(nc net.Conn) {
	if p.server == nil {
		w := p.workers[p.loops.Pick()]
		w.loop.Do(func() { w.acceptHTTP1(loop.Plain(nc)) })
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	if sock, err := loop.Handshake(ctx, nc, p.server, loop.ServerSide); err == nil {
		w := p.workers[p.loops.Pick()]
		w.loop.Do(func() { w.acceptHTTP2(sock) })
	}
}

// secure returns the TLS configurations of o: HTTP/2 only, and TLS 1.3, as all
// that this is compared with.
func (o *options) secure() (server, client *tls.Config, err error) {
	if o.root != "" {
		text, err := os.ReadFile(o.root)
		if err != nil {
			return nil, nil, err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(text)
		client = &tls.Config{
			MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
			InsecureSkipVerify: true, // the certificates have no names; see below
			VerifyConnection: func(s tls.ConnectionState) error {
				_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots})
				return err
			},
		}
	}
	if o.cert == "" {
		return nil, client, nil
	}
	pair, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return nil, nil, err
	}
	server = &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		Certificates: []tls.Certificate{pair}, SessionTicketsDisabled: true,
	}
	return server, client, nil
}
