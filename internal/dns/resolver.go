package dns

import (
	"math/rand/v2"
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// ResolverOptions say where a Resolver is.
type ResolverOptions struct {
	Domain  string // of the cluster; "" is cluster.local
	Network string // the network we are in
	Node    string // whose workloads are answered; "": those of any

	// Prefer is the namespace whose services are taken where neither the client's
	// own has one nor Kubernetes. "" is none.
	Prefer string

	// NoIPv6 has every name without an IPv6 address.
	NoIPv6 bool
}

// A Resolver answers questions from what is known of the mesh. It is safe for
// concurrent use.
type Resolver struct {
	options ResolverOptions
	domain  string                           // lower case
	shuffle func(n int, swap func(i, j int)) // tests do not
}

// NewResolver returns a Resolver.
func NewResolver(o ResolverOptions) *Resolver {
	domain := strings.ToLower(strings.Trim(o.Domain, "."))
	if domain == "" {
		domain = "cluster.local"
	}
	return &Resolver{options: o, domain: domain, shuffle: rand.Shuffle}
}

// Client returns the workload that asks from an address, or nil when that is
// nobody's whom we answer.
func (r *Resolver) Client(snap *config.Snapshot, ip netip.Addr) *mesh.Workload {
	w := snap.Workload(r.options.Network, ip.Unmap())
	if w == nil || r.options.Node != "" && w.Node != r.options.Node {
		return nil
	}
	return w
}

// An Answer is what the mesh has to say. One without records says that there
// are none of the type that was asked for, though the name exists.
type Answer struct{ Records, Extra []dns.RR }

// Answer returns the answer to a client's question, and false when the question
// is not the mesh's to answer and is to be forwarded: it is not about addresses
// or SRV, nothing is known by the name, or the client may not see it.
//
// A client that is not in the mesh is told nothing of it: an address that was
// made up leads nowhere from there.
func (r *Resolver) Answer(snap *config.Snapshot, client *mesh.Workload, q dns.Question) (Answer, bool) {
	if q.Qclass != dns.ClassINET || client.Tunnel != mesh.HBONE {
		return Answer{}, false
	}
	name := strings.ToLower(strings.TrimSuffix(q.Name, "."))
	if name == "" || strings.IndexByte(name, '\\') >= 0 {
		return Answer{}, false // no name of ours needs an escape
	}
	switch q.Qtype {
	case dns.TypeA, dns.TypeAAAA:
		f, ok := r.find(snap, client, name)
		if !ok {
			return Answer{}, false
		}
		return r.addressAnswer(client, q, &f), true
	case dns.TypeSRV:
		return r.srvAnswer(snap, client, q, name)
	}
	return Answer{}, false
}

// A finding is what a name was found to mean.
type finding struct {
	candidate
	service  *mesh.Service
	ports    []*config.Destination
	pod      *mesh.Workload // an endpoint of the service, if the name is its own
	wildcard bool
}

// find looks a name up: each candidate as a service, as a pod of one, and under
// the wildcards that it falls under, from the longest.
func (r *Resolver) find(snap *config.Snapshot, client *mesh.Workload, name string) (finding, bool) {
	var few [16]candidate
	for _, c := range r.candidates(few[:0], client, name) {
		if svc, ports := r.choose(snap, client, c.host); svc != nil {
			return finding{candidate: c, service: svc, ports: ports}, true
		}
		label, rest, ok := strings.Cut(c.host, ".")
		if !ok {
			continue
		}
		if svc, ports := r.choose(snap, client, rest); svc != nil && r.isClusters(svc) {
			if w := r.podNamed(client, ports, label); w != nil {
				return finding{candidate: c, service: svc, ports: ports, pod: w}, true
			}
		}
		for host := c.host; ; {
			i := strings.IndexByte(host, '.')
			if i < 0 {
				break
			}
			if svc, ports := r.choose(snap, client, host[i:]); svc != nil {
				return finding{candidate: c, service: svc, ports: ports, wildcard: true}, true
			}
			host = host[i+1:]
		}
	}
	return finding{}, false
}

// choose returns which of the services of a name the client means: that of its
// own namespace, Kubernetes' own, that of the preferred namespace, or the first.
// What it may not see is not there, and neither is an external service that has
// no address: its name is somebody else's to resolve.
func (r *Resolver) choose(snap *config.Snapshot, client *mesh.Workload, host string) (best *mesh.Service, ports []*config.Destination) {
	rank := 0
	for svc, p := range snap.Named(host) {
		if svc.Private && svc.Namespace != client.Namespace || len(svc.Addresses) == 0 && !r.isClusters(svc) {
			continue
		}
		n := 1
		switch {
		case svc.Namespace == client.Namespace:
			n = 4
		case svc.Canonical:
			n = 3
		case svc.Namespace == r.options.Prefer:
			n = 2
		}
		if n > rank {
			rank, best, ports = n, svc, p
		}
	}
	return best, ports
}

// isClusters reports whether a service has a name as Kubernetes gives it. Without
// addresses it is then headless, rather than external.
func (r *Resolver) isClusters(s *mesh.Service) bool {
	rest, ok := strings.CutSuffix(s.Hostname, r.domain)
	return ok && strings.HasSuffix(rest, ".svc.")
}

// podNamed returns the endpoint of a service that has a name under it, or nil.
func (r *Resolver) podNamed(client *mesh.Workload, ports []*config.Destination, label string) *mesh.Workload {
	for _, d := range ports {
		for i := range d.Endpoints {
			w := d.Endpoints[i].Workload
			if w.Network != client.Network {
				continue
			}
			if ownName(w) == label {
				return w
			}
			for _, ip := range w.Addresses {
				if dashed(ip) == label {
					return w
				}
			}
		}
	}
	return nil
}

// ownName returns the name of a pod under its headless service, or "": a pod of a
// StatefulSet, or one that nobody owns, is asked for by name. What its spec says
// of hostname and subdomain is not known; this is what they are with these.
func ownName(w *mesh.Workload) string {
	if w.OwnerName == w.Name {
		return w.Name
	}
	ordinal, ok := strings.CutPrefix(w.Name, w.OwnerName+"-")
	if !ok || w.OwnerName == "" || ordinal == "" || strings.Trim(ordinal, "0123456789") != "" {
		return ""
	}
	return w.Name
}

// dashed is how Kubernetes' DNS names an endpoint that has no name:
// 10-0-0-7.web.shop.svc.cluster.local.
func dashed(ip netip.Addr) string {
	return strings.Map(func(c rune) rune {
		if c == '.' || c == ':' {
			return '-'
		}
		return c
	}, ip.String())
}
