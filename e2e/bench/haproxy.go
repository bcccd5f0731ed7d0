package main

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
)

// haproxyPump is HAProxy in TCP mode: it ends mTLS, begins mTLS, and knows nothing
// of the bytes between. Nothing that understands them can cost less for long.
func haproxyPump() system {
	return system{
		name: "haproxy pump",
		lacks: "everything but mTLS on both sides: it carries the bytes of HBONE connections one to one, with no tunnels, identities, " +
			"policies, routes, access log or metrics",
		missing: func() string { return onPath("haproxy", "haproxy") },
		version: haproxyVersion,
		start:   startPump,
	}
}

func haproxyVersion() string {
	path, err := lookPath("haproxy")
	if err != nil {
		return ""
	}
	words := strings.Fields(output(path, "-v"))
	return strings.Join(words[:min(3, len(words))], " ") // the rest is a date and an address
}

// A haproxy is what its configuration is made of.
type haproxy struct {
	Threads int
	Certs   *certificates
	Health  netip.AddrPort // answers HTTP when HAProxy runs
	Fronts  []front
}

// A front is a listener and the one server behind it.
type front struct {
	Name       string
	HTTP       bool // rather than TCP
	Bind, To   string
	Accept     string // the account with which TLS is ended; "" for no TLS
	Dial       string // the account with which it is begun; likewise
	ALPN, Then string // of either side; "" for none
	Anyone     bool   // no certificate is asked of the client
}

func startPump(ctx context.Context, e *env) (*running, error) {
	bind := netip.AddrPortFrom(e.address(), portHBONE).String()
	r := &running{connect: bind, transport: "hbone", authority: httpAuthority, peer: "default/" + waypointAccount}
	return r, startHAProxy(ctx, e, r, front{
		Name: "pump", Bind: bind, To: e.destination.HBONE.String(),
		Accept: waypointAccount, Dial: waypointAccount, ALPN: "h2", Then: "h2",
	})
}

// haproxyTunnels is two of them in place of two node tunnels: plain TCP in, mTLS
// between, plain TCP out.
func haproxyTunnels() system {
	return system{
		name: "haproxy tcp to TLS",
		lacks: "HBONE (a TLS connection for each of the client's, made anew), choosing by destination (it has one), identities and policies, " +
			"a record of each connection, metrics",
		missing: func() string { return onPath("haproxy", "haproxy") },
		version: haproxyVersion,
		start:   startHAProxies,
	}
}

func startHAProxies(ctx context.Context, e *env) (*running, error) {
	near := netip.AddrPortFrom(e.address(), portSOCKS).String()
	far := netip.AddrPortFrom(e.address(), portHBONE).String()
	receiver := &running{}
	if err := startHAProxy(ctx, e, receiver, front{
		Name: "receiver", Bind: far, To: e.destination.Plain.String(), Accept: serverAccount,
	}); err != nil {
		return nil, err
	}
	sender := &running{connect: near, transport: "tcp", authority: plainAuthority}
	if err := startHAProxy(ctx, e, sender, front{
		Name: "sender", Bind: near, To: far, Dial: clientAccount,
	}); err != nil {
		return nil, whenceEnded(err, receiver)
	}
	stop := sender.stop
	sender.pids = append(sender.pids, receiver.pids...)
	sender.stop = func() error { return errors.Join(stop(), receiver.stop()) }
	return sender, nil
}

// startHAProxy starts one process and says in r how.
func startHAProxy(ctx context.Context, e *env, r *running, fronts ...front) error {
	path, err := lookPath("haproxy")
	if err != nil {
		return err
	}
	dir, err := e.directory("haproxy")
	if err != nil {
		return err
	}
	h := haproxy{Threads: e.loops, Certs: e.certs, Health: netip.AddrPortFrom(e.address(), portReady), Fronts: fronts}
	config, err := render(dir, "haproxy.cfg", h)
	if err != nil {
		return err
	}
	r.said = filepath.Join(dir, "haproxy.log")
	c, err := e.family.start("haproxy "+fronts[0].Name, r.said, path, "-db", "-f", config)
	if err != nil {
		return err
	}
	r.pids = []int{c.pid()}
	r.stop = func() error { return e.family.end(syscall.SIGTERM, c) }
	if err := c.await(ctx, answers("http://"+h.Health.String()+"/healthz")); err != nil {
		return whenceEnded(err, r)
	}
	return nil
}
