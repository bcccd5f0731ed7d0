// Package admin serves what is asked about a proxy rather than of it, on three
// ports as ztunnel does: administration, which reads secrets' names and changes
// things and so listens on the loopback address only; metrics, which scrapers
// reach; and readiness, which the kubelet reaches. Nothing here is on the path
// of traffic.
package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waystone-mesh/waystone/telemetry"
)

// Off is the address of a listener that is not wanted.
const Off = "off"

// Options configure a Server.
type Options struct {
	Admin   string // "" is "127.0.0.1:15000"; any other than a loopback address is refused
	Metrics string // "" is ":15020"
	Health  string // "" is ":15021"

	Ready    *Ready              // nil is always ready
	Gatherer prometheus.Gatherer // nil gathers nothing

	// Log is what /logging changes. Nil is none: /logging is then not found.
	Log *telemetry.Log

	// ConfigDump returns what /config_dump marshals. Nil is an empty object. It
	// is called for each request, concurrently.
	ConfigDump func() any

	// Loops returns what /loops marshals, likewise. Nil: not found.
	Loops func() any

	// Recent answers /authz/recent by its parameters: with what is marshalled, or
	// with a string that is shown as it is. An error says what is wrong with the
	// parameters. Nil: not found.
	Recent func(url.Values) (any, error)

	// Quit is called, once, by POST /quitquitquit. Nil: not found.
	Quit func()
}

// A Server is the three listeners.
type Server struct {
	servers []*listener
}

// A listener is one of them.
type listener struct {
	name string
	ln   net.Listener
	http http.Server
}

// Listen binds the addresses. Nothing is answered until Serve.
func Listen(o Options) (*Server, error) {
	s := new(Server)
	o.Admin = cmp.Or(o.Admin, "127.0.0.1:15000")
	if o.Admin != Off {
		if err := checkLoopback(o.Admin); err != nil {
			return nil, err
		}
	}
	if o.Ready == nil {
		o.Ready = new(Ready)
	}
	for _, l := range []struct {
		name, addr string
		handler    http.Handler
		write      time.Duration
	}{
		// A CPU profile takes as long as it was asked to.
		{"admin", o.Admin, adminHandler(&o), 330 * time.Second},
		{"metrics", cmp.Or(o.Metrics, ":15020"), metricsHandler(o.Gatherer), 30 * time.Second},
		{"health", cmp.Or(o.Health, ":15021"), healthHandler(o.Ready), 5 * time.Second},
	} {
		if l.addr == Off {
			continue
		}
		if err := s.listen(l.name, l.addr, l.handler, l.write); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

// checkLoopback refuses an address that others than this machine's processes
// could reach.
func checkLoopback(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("admin: address %q: %w", addr, err)
	}
	if host == "localhost" {
		return nil
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || !ip.IsLoopback() {
		return fmt.Errorf("admin: address %q is not a loopback address: it may change log levels, read the configuration and stop the program", addr)
	}
	return nil
}

func (s *Server) listen(name, addr string, h http.Handler, write time.Duration) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("admin: %s: %w", name, err)
	}
	l := &listener{name: name, ln: ln}
	l.http = http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      write,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    16 << 10,
	}
	s.servers = append(s.servers, l)
	return nil
}

func (s *Server) close() {
	for _, l := range s.servers {
		l.ln.Close()
	}
}

// Addr returns where "admin", "metrics" or "health" listens, or nil when it is
// off.
func (s *Server) Addr(name string) net.Addr {
	for _, l := range s.servers {
		if l.name == name {
			return l.ln.Addr()
		}
	}
	return nil
}

// Serve answers until Shutdown, and then returns nil once it was called; or
// until a listener fails, which ends the others.
func (s *Server) Serve() error {
	var all sync.WaitGroup
	errs := make([]error, len(s.servers))
	for i, l := range s.servers {
		all.Go(func() {
			err := l.http.Serve(l.ln)
			if errors.Is(err, http.ErrServerClosed) {
				return
			}
			errs[i] = fmt.Errorf("admin: serve %s: %w", l.name, err)
			for _, other := range s.servers {
				other.http.Close()
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// Shutdown stops listening and waits for the requests that are being answered.
// When ctx ends first it cuts them off.
func (s *Server) Shutdown(ctx context.Context) error {
	var all sync.WaitGroup
	errs := make([]error, len(s.servers))
	for i, l := range s.servers {
		all.Go(func() {
			if errs[i] = l.http.Shutdown(ctx); errs[i] != nil {
				l.http.Close()
			}
			l.ln.Close() // Serve was never called, perhaps
		})
	}
	all.Wait()
	return errors.Join(errs...)
}
