package main

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// envoyWaypoint is Envoy with the listeners, clusters and filters with which Istio
// makes a waypoint of it.
func envoyWaypoint() system {
	return system{
		name: "envoy",
		lacks: "Istio's own filters, which are not in a stock Envoy: istio.stats (the istio_* families; in their place stand Envoy's own figures " +
			"of the listener and the services) and peer metadata (who the client and the endpoint are, looked up by address), so that it does " +
			"less for each request than Istio's proxy; xDS and SDS (the configuration and the certificates are files)",
		missing: func() string {
			_, err := findEnvoy()
			return said(err)
		},
		version: envoyVersion,
		start:   startEnvoy,
	}
}

func said(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func envoyVersion() string {
	path, err := findEnvoy()
	if err != nil {
		return ""
	}
	// "envoy  version: commit/1.40.0/Clean/RELEASE/BoringSSL"
	words := strings.Split(output(path, "--version"), "/")
	if len(words) < 3 {
		return strings.Join(words, "/")
	}
	return "Envoy " + words[len(words)-4]
}

func startEnvoy(ctx context.Context, e *env) (*running, error) {
	path, err := findEnvoy()
	if err != nil {
		return nil, err
	}
	dir, err := e.directory("envoy")
	if err != nil {
		return nil, err
	}
	m := newMesh(e)
	m.Access = filepath.Join(dir, "access.log")
	m.Admin = netip.AddrPortFrom(m.Waypoint, portAdmin)
	config, err := render(dir, "envoy.yaml", m)
	if err != nil {
		return nil, err
	}
	r := &running{
		connect: netip.AddrPortFrom(m.Waypoint, portHBONE).String(), transport: "hbone",
		authority: httpAuthority, peer: "default/" + waypointAccount,
		access: m.Access, said: filepath.Join(dir, "envoy.log"),
	}
	c, err := e.family.start("envoy", r.said, path, envoyArguments(config, e.loops)...)
	if err != nil {
		return nil, err
	}
	r.stop = func() error { return e.family.end(syscall.SIGTERM, c) }
	if err := c.await(ctx, answers("http://"+m.Admin.String()+"/ready")); err != nil {
		return nil, whenceEnded(err, r)
	}
	r.pids, r.counters = []int{c.pid()}, scrape("http://"+m.Admin.String()+"/stats/prometheus")
	return r, nil
}

// envoyArguments are those of Istio's agent: the log is flushed once a second.
func envoyArguments(config string, workers int) []string {
	return []string{
		"-c", config, "--concurrency", strconv.Itoa(workers), "--file-flush-interval-msec", "1000",
		"--disable-hot-restart", "--local-address-ip-version", "v4", "-l", "warning",
	}
}

// A chain is what Istio makes of one port of a service: a filter chain of the inner
// listener and a cluster, of the same name.
type chain struct {
	Name, Version string // of the service
	Number        int
	Cluster       string
	Endpoint      netip.AddrPort
	TCP, HTTP2    bool
	Rules         []rule
	Routes        []route
}

// Chains are those of all services.
func (m *mesh) Chains() []chain {
	var all []chain
	for _, s := range m.Services {
		all = append(all, m.ChainsOf(s)...)
	}
	return all
}

// ChainsOf are those of one.
func (m *mesh) ChainsOf(s service) []chain {
	var all []chain
	pod := m.Server
	if s.Version != "v1" {
		pod = m.Spare
	}
	for _, p := range s.Ports {
		c := chain{
			Name: s.Name, Version: s.Version, Number: p.Number,
			Cluster:  fmt.Sprintf("inbound-vip|%d|http|%s.default.svc.cluster.local", p.Number, s.Name),
			Endpoint: netip.AddrPortFrom(pod, uint16(p.Target)),
			TCP:      p.Protocol == "tcp", HTTP2: p.Protocol == "grpc",
			Routes: []route{{Prefix: "/", Backend: s.Name}},
		}
		if c.TCP {
			c.Cluster = strings.Replace(c.Cluster, "http", "tcp", 1)
		}
		if s.Name == "items" {
			c.Rules, c.Routes = m.Rules, m.Routes
		}
		all = append(all, c)
	}
	return all
}
