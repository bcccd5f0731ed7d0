// Command h2conformance runs the cases of h2spec against a waypoint's two
// HTTP/2 servers: the HBONE listener, over TLS with a client certificate, and
// the server inside the tunnels, which it reaches through a relay.
//
// h2spec GETs and POSTs, which an HBONE listener answers with 404 at once, and
// some cases end there. So the listener is tried twice: as it is, and with each
// request made a CONNECT on the way.
//
//	h2conformance [--strict=false] [--verbose] bin/waypoint
//
// A case may fail only if it is listed, with the reason why it asks for something
// that does not apply; a listed case that passes is as much of a failure, so that
// the list says what is so.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/summerwind/h2spec/config"
)

func main() {
	verbose := flag.Bool("verbose", false, "let the waypoint's log through")
	strict := flag.Bool("strict", true, "also the cases that h2spec calls strict")
	timeout := flag.Duration("timeout", 2*time.Second, "how long a case waits for an answer")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: h2conformance [flags] PATH-OF-WAYPOINT")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, flag.Arg(0), *verbose, config.Config{Strict: *strict, Timeout: *timeout}); err != nil {
		fmt.Fprintln(os.Stderr, "h2conformance:", err)
		os.Exit(1)
	}
}

// run sets the waypoint up, runs the cases against its servers, and
// reports.
func run(ctx context.Context, program string, verbose bool, c config.Config) error {
	dir, err := os.MkdirTemp("", "h2conformance-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	m, err := newMesh(dir)
	if err != nil {
		return err
	}
	defer m.close()
	if err := m.startWaypoint(ctx, program, verbose); err != nil {
		return err
	}
	relay, err := m.startRelay()
	if err != nil {
		return err
	}
	if err := m.startTranslator(); err != nil {
		return err
	}
	c.Path, c.MaxHeaderLen = "/", 4000 // what h2spec's own command sets

	outer, tunnels, inner := c, c, c
	outer.Host, outer.Port = m.waypoint.String(), hbonePort
	outer.TLS, outer.Insecure = true, true // the name in the certificate is a SPIFFE ID
	outer.CertFile, outer.CertKeyFile = m.clientCert, m.clientKey
	tunnels.Host, tunnels.Port = m.tcpVIP.String(), tcpVIPPort
	inner.Host, inner.Port = relay.Addr().String(), int(relay.Port())

	start := time.Now()
	servers := []*server{
		{name: "HBONE listener", config: &outer, explained: explainedHBONE},
		{name: "HBONE as CONNECT", config: &tunnels, explained: explainedConnect},
		{name: "inside tunnels", config: &inner, explained: explainedInner},
	}
	for _, s := range servers {
		if err := s.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	report(os.Stdout, servers)
	fmt.Printf("%.1f s\n", time.Since(start).Seconds())
	var errs []error
	for _, s := range servers {
		errs = append(errs, s.verdict())
	}
	return errors.Join(append(errs, m.stopWaypoint())...)
}
