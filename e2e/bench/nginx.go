package main

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// An nginx is what its configuration is made of.
type nginx struct {
	Dir     string
	Workers int
	Root    bool // we are: so are the workers, or they could not read our files
	Certs   *certificates
	Health  netip.AddrPort // answers HTTP when nginx runs
	Bind    netip.AddrPort
	TLS     bool           // HTTP/2 over TLS, rather than HTTP/1.1 without
	To      netip.AddrPort // where requests go; not valid: Files answer them
	Files   string
}

func nginxVersion() string {
	path, err := lookPath("nginx")
	if err != nil {
		return ""
	}
	return strings.TrimPrefix(output(path, "-v"), "nginx version: ")
}

func noNginx() string { return onPath("nginx", "nginx-light") }

// nginxProxy is nginx as a reverse proxy to the HTTP/1.1 server: it speaks nothing
// else to servers.
func nginxProxy(tls bool) system {
	return system{
		name:    "nginx " + protocols(tls, false),
		lacks:   "policies, routes, the access log (ours is on) and metrics",
		missing: anyOf(noNginx, noH2load),
		version: nginxVersion,
		start: func(ctx context.Context, e *env) (*running, error) {
			n := nginx{Bind: netip.AddrPortFrom(e.address(), 8443), TLS: tls, To: e.destination.HTTP1}
			return startNginx(ctx, e, n)
		},
	}
}

// startNginx starts one. Of n, what it does not say is filled in.
func startNginx(ctx context.Context, e *env, n nginx) (*running, error) {
	path, err := lookPath("nginx")
	if err != nil {
		return nil, err
	}
	if n.Dir, err = e.directory("nginx"); err != nil {
		return nil, err
	}
	n.Workers, n.Root, n.Certs, n.Health = e.loops, os.Getuid() == 0, e.certs, netip.AddrPortFrom(e.address(), portReady)
	config, err := render(n.Dir, "nginx.conf", n)
	if err != nil {
		return nil, err
	}
	r := &running{connect: n.Bind.String(), transport: transportOf(n.TLS), said: filepath.Join(n.Dir, "nginx.log")}
	c, err := e.family.start("nginx", r.said, path, "-p", n.Dir, "-c", config, "-e", "stderr")
	if err != nil {
		return nil, err
	}
	r.stop = func() error { return e.family.end(syscall.SIGTERM, c) }
	if err := c.await(ctx, answers("http://"+n.Health.String()+"/")); err != nil {
		return nil, whenceEnded(err, r)
	}
	r.pids = c.workers()
	return r, nil
}
