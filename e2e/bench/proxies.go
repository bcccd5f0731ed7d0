package main

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// proxies are reverse proxies of plain HTTP for h2load to drive: ours, which is the
// waypoint's codecs in a small program of their own, and what there is. They come in
// groups that do the same, ours first.
func proxies(e *env) [][]system {
	return [][]system{
		{waystoneProxy(e, true, true), haproxyProxy(true, true)},
		{waystoneProxy(e, true, false), haproxyProxy(true, false), nginxProxy(true)},
		{waystoneProxy(e, false, false), haproxyProxy(false, false), nginxProxy(false)},
	}
}

// protocols names what a proxy takes and makes.
func protocols(client, server bool) string { return transportOf(client) + " to " + transportOf(server) }

// transportOf is HTTP/2, always over TLS, or HTTP/1.1, never.
func transportOf(tls bool) string {
	if tls {
		return "h2"
	}
	return "http1"
}

// anyOf returns the first reason that any of some functions gives.
func anyOf(reasons ...func() string) func() string {
	return func() string {
		for _, why := range reasons {
			if text := why(); text != "" {
				return text
			}
		}
		return ""
	}
}

// waystoneProxy is h2proxy, with HTTP/2 or HTTP/1.1 on either side.
func waystoneProxy(e *env, client, server bool) system {
	program := e.program("h2proxy")
	return system{
		name:    "waystone " + protocols(client, server),
		lacks:   "retries, time limits, drains, upgrades: it is the waypoint's codecs, policy, routes, access log and metrics, and not the waypoint",
		missing: anyOf(func() string { return have(program) }, noH2load),
		version: func() string { return ownVersion(e) },
		start:   func(ctx context.Context, e *env) (*running, error) { return startProxy(ctx, e, client, server) },
	}
}

func startProxy(ctx context.Context, e *env, client, server bool) (*running, error) {
	dir, err := e.directory("h2proxy")
	if err != nil {
		return nil, err
	}
	ip := e.address()
	r := &running{
		connect: netip.AddrPortFrom(ip, 8443).String(), transport: transportOf(client),
		access: filepath.Join(dir, "access.log"), said: filepath.Join(dir, "h2proxy.log"),
	}
	metrics := netip.AddrPortFrom(ip, portMetrics).String()
	args := []string{"-listen", r.connect, "-access-log", r.access, "-metrics", metrics, "-loops", strconv.Itoa(e.loops)}
	if client {
		args = append(args, "-cert", e.certs.Cert(waypointAccount), "-key", e.certs.Key(waypointAccount))
	}
	if server {
		args = append(args, "-upstream", e.destination.HTTP2.String(), "-root", e.certs.Root())
	} else {
		args = append(args, "-upstream", e.destination.HTTP1.String(), "-upstream-http1")
	}
	c, err := e.family.start("h2proxy", r.said, e.program("h2proxy"), args...)
	if err != nil {
		return nil, err
	}
	r.stop = func() error { return e.family.end(syscall.SIGTERM, c) }
	if err := c.await(ctx, answers("http://"+metrics+"/metrics")); err != nil {
		return nil, whenceEnded(err, r)
	}
	r.pids, r.counters = []int{c.pid()}, scrape("http://"+metrics+"/metrics")
	return r, nil
}

// haproxyProxy is HAProxy in HTTP mode.
func haproxyProxy(client, server bool) system {
	return system{
		name:    "haproxy " + protocols(client, server),
		lacks:   "policies, routes, the access log (ours is on) and metrics",
		missing: anyOf(func() string { return onPath("haproxy", "haproxy") }, noH2load),
		version: haproxyVersion,
		start: func(ctx context.Context, e *env) (*running, error) {
			f := front{Name: "proxy", HTTP: true, Bind: netip.AddrPortFrom(e.address(), 8443).String(), To: e.destination.HTTP1.String(), Anyone: true}
			if client {
				f.Accept, f.ALPN = waypointAccount, "h2"
			}
			if server {
				f.To, f.Dial, f.Then = e.destination.HTTP2.String(), waypointAccount, "h2"
			}
			r := &running{connect: f.Bind, transport: transportOf(client)}
			return r, startHAProxy(ctx, e, r, f)
		},
	}
}

// The files that the servers behind proxies have, by their size.
var files = map[string]int{"/items-0": 0, "/items-1k": 1 << 10, "/items-64k": 64 << 10}

// startOrigins starts the servers behind proxies, where e's destination has them:
// nghttpd for HTTP/2, nginx for HTTP/1.1, each with one thread. It returns what
// stops them.
func startOrigins(ctx context.Context, e *env) (stop func() error, err error) {
	dir, err := e.directory("origins")
	if err != nil {
		return nil, err
	}
	for name, size := range files {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o644); err != nil {
			return nil, err
		}
	}
	nghttpd, err := lookPath("nghttpd")
	if err != nil {
		return nil, errors.New(onPath("nghttpd", "nghttp2-server"))
	}
	h2 := e.destination.HTTP2
	c, err := e.family.start("nghttpd", filepath.Join(dir, "nghttpd.log"), nghttpd, "-a", h2.Addr().String(), "-d", dir, "-n", "1",
		strconv.Itoa(int(h2.Port())), e.certs.Key(serverAccount), e.certs.Cert(serverAccount))
	if err != nil {
		return nil, err
	}
	stop = func() error { return e.family.end(syscall.SIGTERM, c) }
	if err := c.await(ctx, connects(h2.String())); err != nil {
		return nil, errors.Join(err, stop())
	}
	if noNginx() != "" {
		return stop, nil // whoever needs it says so
	}
	h1, err := startNginx(ctx, e.with(1), nginx{Bind: e.destination.HTTP1, Files: dir})
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	stopH2 := stop
	return func() error { return errors.Join(h1.stop(), stopH2()) }, nil
}
