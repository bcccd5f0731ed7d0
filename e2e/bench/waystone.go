package main

import (
	"context"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// waystoneWaypoint is our waypoint with everything on that Istio's has on by
// default: policies, routes, the JSON access log to a file, metrics.
func waystoneWaypoint(e *env) system {
	program := e.program("waypoint")
	return system{
		name:    "waystone",
		missing: func() string { return have(program) },
		version: func() string { return ownVersion(e) },
		start:   startWaypoint,
	}
}

// ownVersion is what our tool says of itself.
func ownVersion(e *env) string { return output(e.program("waystone"), "version") }

func startWaypoint(ctx context.Context, e *env) (*running, error) {
	dir, err := e.directory("waystone")
	if err != nil {
		return nil, err
	}
	logs, err := e.directory("waystone-logs") // not where manifests are watched for
	if err != nil {
		return nil, err
	}
	m := newMesh(e)
	config, err := render(dir, "mesh.yaml", m)
	if err != nil {
		return nil, err
	}
	r := &running{
		connect: netip.AddrPortFrom(m.Waypoint, portHBONE).String(), transport: "hbone",
		authority: httpAuthority, peer: "default/" + waypointAccount,
		access: filepath.Join(logs, "access.log"),
		said:   filepath.Join(logs, "waypoint.log"),
	}
	args := append(proxyArguments(e, config, m.Waypoint), "--gateway", "default/waypoint", "--service-account", "default/"+waypointAccount,
		"--hbone-address", r.connect, "--access-log", r.access)
	began := time.Now()
	c, err := e.family.start("waystone", r.said, e.program("waypoint"), args...)
	if err != nil {
		return nil, err
	}
	r.stop = func() error { return e.family.end(syscall.SIGTERM, c) }
	if err := c.await(ctx, answers(readiness(m.Waypoint))); err != nil {
		return nil, whenceEnded(err, r)
	}
	r.took = time.Since(began)
	r.pids, r.counters = []int{c.pid()}, ownCounters(m.Waypoint)
	return r, nil
}

// proxyArguments are what our two proxies have in common: each answers questions at
// an address of its own.
func proxyArguments(e *env, config string, ip netip.Addr) []string {
	return append([]string{
		"--config", config, "--identity", e.certs.source(), "--loops", strconv.Itoa(e.loops),
		"--admin", netip.AddrPortFrom(ip, portAdmin).String(),
		"--metrics", netip.AddrPortFrom(ip, portMetrics).String(),
		"--readiness", netip.AddrPortFrom(ip, portReady).String(),
	}, e.args...)
}

func readiness(ip netip.Addr) string {
	return "http://" + netip.AddrPortFrom(ip, portReady).String() + "/healthz/ready"
}

func metricsAt(ip netip.Addr) string {
	return "http://" + netip.AddrPortFrom(ip, portMetrics).String() + "/metrics"
}

// waystoneTunnels is two of our node tunnels: the client's, which takes SOCKS5, and
// the destination's.
func waystoneTunnels(e *env) system {
	program := e.program("ztunnel")
	return system{
		name:    "waystone",
		missing: func() string { return have(program) },
		version: func() string { return ownVersion(e) },
		start:   startTunnels,
	}
}

func startTunnels(ctx context.Context, e *env) (*running, error) {
	dir, err := e.directory("waystone-tunnels")
	if err != nil {
		return nil, err
	}
	m := newMesh(e)
	m.Client = e.address()
	config, err := render(dir, "mesh.yaml", m)
	if err != nil {
		return nil, err
	}
	r := &running{
		connect: netip.AddrPortFrom(m.Client, portSOCKS).String(), transport: "socks5",
		authority: plainAuthority,
		access:    filepath.Join(dir, "access.log"),
		said:      filepath.Join(dir, "ztunnel.log"),
	}
	var children []*child
	r.stop = func() error { return e.family.end(syscall.SIGTERM, children...) }
	var asked []netip.Addr
	for _, node := range []string{"node-b", "node-a"} {
		ip := e.address()
		c, err := e.family.start("waystone "+node, r.said, e.program("ztunnel"), append(proxyArguments(e, config, ip), "--node", node, "--log-output", r.access)...)
		if err != nil {
			return nil, whenceEnded(err, r)
		}
		children = append(children, c)
		if err := c.await(ctx, answers(readiness(ip))); err != nil {
			return nil, whenceEnded(err, r)
		}
		r.pids, asked = append(r.pids, c.pid()), append(asked, ip)
	}
	r.counters = ownCounters(asked...)
	return r, nil
}

// whenceEnded returns err after ending what had been started of r.
func whenceEnded(err error, r *running) error {
	_ = r.stop() // that it has died is what err says
	return err
}

// output returns the first line that a program writes about itself.
func output(program string, args ...string) string {
	text, err := run(program, args...)
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if err != nil && line == "" {
		return err.Error()
	}
	return line
}
