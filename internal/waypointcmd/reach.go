package waypointcmd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

const (
	// hbonePort is where node tunnels listen.
	hbonePort = 15008

	// reachTries is how many endpoints of a service are tried for one connection,
	// and reachTimeout how long each may take: 5 s.
	reachTries   = 3
	reachTimeout = 5 * time.Second
)

// A reach connects to the services that MeshConfig names: those of the mesh with
// our own identity, over HBONE where they speak it; others over TCP.
type reach struct {
	snapshot      func() *config.Snapshot
	self          identity.ID
	network       string
	clusterDomain string
	pool          *hbone.Pool
	dial          func(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error)
	lookup        func(ctx context.Context, host string) ([]netip.Addr, error) // in DNS

	mu   sync.Mutex
	open map[place]int // guarded by mu: connections that are open
}

// A place is a workload as an endpoint of a service.
type place struct{ service, workload string }

// A placed is a connection that counts where it leads to.
type placed struct {
	net.Conn
	closed sync.Once
	count  func(n int)
}

// Close closes the connection.
func (c *placed) Close() error {
	c.closed.Do(func() { c.count(-1) })
	return c.Conn.Close()
}

// connect connects to a port of a service, [namespace/]host, as it is now.
func (r *reach) connect(ctx context.Context, service string, port uint16) (net.Conn, error) {
	d, err := r.find(service, port)
	switch {
	case err != nil:
		return nil, err
	case d == nil:
		return r.direct(ctx, service, port)
	case len(d.Endpoints) == 0:
		return nil, fmt.Errorf("service %s has no endpoint that is ready", service)
	}
	left := make([]mesh.Endpoint, len(d.Endpoints))
	copy(left, d.Endpoints)
	var errs []error
	for range min(reachTries, len(left)) {
		e := r.choose(service, left)
		c, err := r.endpoint(ctx, e, port)
		if err == nil {
			return r.place(c, place{service, e.Workload.UID}), nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
		*e = left[len(left)-1]
		left = left[:len(left)-1]
	}
	return nil, errors.Join(errs...)
}

// choose returns an endpoint with the fewest of our connections: they last, and
// whoever asks has several, so that all endpoints are asked.
func (r *reach) choose(service string, all []mesh.Endpoint) *mesh.Endpoint {
	r.mu.Lock()
	defer r.mu.Unlock()
	best, fewest := 0, -1
	for _, n := range rand.Perm(len(all)) {
		if open := r.open[place{service, all[n].Workload.UID}]; fewest < 0 || open < fewest {
			best, fewest = n, open
		}
	}
	return &all[best]
}

// place counts a connection as long as it is open.
func (r *reach) place(c net.Conn, p place) net.Conn {
	count := func(n int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.open[p] += n; r.open[p] == 0 {
			delete(r.open, p)
		}
	}
	count(1)
	return &placed{Conn: c, count: count}
}

// find returns what a service is in the mesh, or nil if it is none of the mesh's:
// an address, localhost, or a name that DNS has to know. What can only be of the
// mesh, by its namespace or its name, is an error if it is not there: its name
// may not be looked up elsewhere, and asked in the clear.
func (r *reach) find(service string, port uint16) (*config.Destination, error) {
	snap := r.snapshot()
	namespace, host, ok := strings.Cut(service, "/")
	if !ok {
		namespace, host = "", service
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if ip, err := netip.ParseAddr(host); err == nil {
		return r.atPort(snap.Lookup(r.network, r.self.Namespace, mesh.Authority{IP: ip.Unmap(), Port: port}), service, port)
	}
	for _, name := range r.names(namespace, host) {
		if namespace == "" {
			if d := snap.Lookup(r.network, r.self.Namespace, mesh.Authority{Host: name, Port: port}); d != nil {
				return r.atPort(d, service, port)
			}
			continue
		}
		if h := (mesh.Hostname{Namespace: namespace, Host: name}); snap.Service(h) != nil {
			if d := snap.Backend(h, port); d != nil {
				return d, nil
			}
			return r.atPort(&config.Destination{Service: snap.Service(h)}, service, port)
		}
	}
	if namespace != "" || strings.HasSuffix(host, ".svc") || strings.HasSuffix(host, ".svc."+r.clusterDomain) {
		return nil, fmt.Errorf("there is no service %s", service)
	}
	return nil, nil
}

// atPort returns d unless it is a service without that port.
func (r *reach) atPort(d *config.Destination, service string, port uint16) (*config.Destination, error) {
	if d != nil && d.Service != nil && d.Port == nil {
		return nil, fmt.Errorf("service %s has no port %d", service, port)
	}
	return d, nil
}

// names lists the host names that a name may be short for, the likeliest first.
func (r *reach) names(namespace, host string) []string {
	names := []string{host}
	switch dots := strings.Count(host, "."); {
	case dots == 0 && namespace != "":
		names = append(names, host+"."+namespace+".svc."+r.clusterDomain)
	case dots == 1:
		names = append(names, host+".svc."+r.clusterDomain)
	case strings.HasSuffix(host, ".svc"):
		names = append(names, host+"."+r.clusterDomain)
	}
	return names
}

// endpoint connects to one endpoint; port is that of the service, which a
// workload that was named by its address has none of its own for.
func (r *reach) endpoint(ctx context.Context, e *mesh.Endpoint, port uint16) (net.Conn, error) {
	addr := e.Addr
	if addr.Port() == 0 {
		addr = netip.AddrPortFrom(addr.Addr(), port)
	}
	ctx, stop := context.WithTimeout(ctx, reachTimeout)
	defer stop()
	switch {
	case e.Workload.Tunnel == mesh.HBONE && addr.Addr().IsValid():
		key := hbone.Key{Self: r.self, Wants: e.Wants, Addr: netip.AddrPortFrom(addr.Addr(), hbonePort)}
		return r.pool.Dial(ctx, key, &hbone.Connect{Authority: mesh.Authority{IP: addr.Addr(), Port: addr.Port()}})
	case e.Workload.Tunnel == mesh.HBONE:
		return nil, fmt.Errorf("workload %s has no address in our network", e.Workload.Name)
	case addr.Addr().IsValid():
		return r.dial(ctx, netip.Addr{}, addr)
	}
	return r.direct(ctx, e.Workload.Hostname, addr.Port())
}

// direct connects to a host that the mesh does not know.
func (r *reach) direct(ctx context.Context, host string, port uint16) (net.Conn, error) {
	ctx, stop := context.WithTimeout(ctx, reachTimeout)
	defer stop()
	ips := []netip.Addr{}
	if ip, err := netip.ParseAddr(host); err == nil {
		ips = append(ips, ip)
	} else if ips, err = r.lookup(ctx, host); err != nil {
		return nil, err
	}
	var errs []error
	for _, ip := range ips {
		c, err := r.dial(ctx, netip.Addr{}, netip.AddrPortFrom(ip.Unmap(), port))
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil, fmt.Errorf("%s has no address", host)
	}
	return nil, errors.Join(errs...)
}

// lookupDNS is reach's lookup.
func lookupDNS(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}
