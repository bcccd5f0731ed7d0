package dns

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

const (
	// ttl is that of Istio's own DNS proxy, 30 s: how long a client may go on
	// with an address whose service has gone.
	ttl = 30

	// maxRecords is more than fit into the longest message: 65,535 bytes at 16
	// for each address.
	maxRecords = 4096
)

// addressAnswer answers a question about addresses.
func (r *Resolver) addressAnswer(client *mesh.Workload, q dns.Question, f *finding) (a Answer) {
	addrs := r.addresses(client, f, q.Qtype)
	if len(addrs) == 0 {
		return a
	}
	owner := q.Name
	if f.stripped != "" && !f.wildcard {
		owner = dns.Fqdn(f.stripped)
		a.Records = append(a.Records, &dns.CNAME{Hdr: header(q.Name, dns.TypeCNAME), Target: owner})
	}
	for _, ip := range addrs {
		a.Records = append(a.Records, address(owner, ip))
	}
	return a
}

// addresses returns the addresses of one family that a finding has for the
// client, in an order of no meaning: VIPs in its network; of a headless service,
// those of its endpoints. A block of VIPs is no address.
func (r *Resolver) addresses(client *mesh.Workload, f *finding, qtype uint16) []netip.Addr {
	v4 := qtype == dns.TypeA
	if !v4 && r.options.NoIPv6 {
		return nil
	}
	var out []netip.Addr
	switch s := f.service; {
	case f.pod != nil:
		out = ofFamily(out, f.pod.Addresses, v4)
	case len(s.Addresses) > 0:
		for _, p := range s.Addresses {
			if ip := p.Prefix.Addr(); p.Network == client.Network && p.Prefix.IsSingleIP() && ip.Is4() == v4 {
				out = append(out, ip)
			}
		}
	case s.Families == mesh.IPv4Only && !v4 || s.Families == mesh.IPv6Only && v4:
	default:
		seen := map[string]bool{}
		for _, d := range f.ports {
			for i := range d.Endpoints {
				// Those of other networks have no address here.
				if w := d.Endpoints[i].Workload; w.Network == client.Network && !seen[w.UID] {
					seen[w.UID] = true
					out = ofFamily(out, w.Addresses, v4)
				}
			}
		}
	}
	r.shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out[:min(len(out), maxRecords)]
}

// ofFamily appends the first address of a family, as a pod has one of each.
func ofFamily(out, all []netip.Addr, v4 bool) []netip.Addr {
	i := slices.IndexFunc(all, func(ip netip.Addr) bool { return ip.Is4() == v4 })
	if i < 0 {
		return out
	}
	return append(out, all[i])
}

// srvAnswer answers a question about where a port of a service is:
// _http._tcp.web.shop.svc.cluster.local. Ports have names where the
// configuration is read from manifests; istiod does not tell them, and the
// question is then another's to answer.
func (r *Resolver) srvAnswer(snap *config.Snapshot, client *mesh.Workload, q dns.Question, name string) (a Answer, ok bool) {
	port, rest, _ := strings.Cut(name, ".")
	protocol, host, _ := strings.Cut(rest, ".")
	if !strings.HasPrefix(port, "_") || protocol != "_tcp" || host == "" {
		return a, false // the mesh carries TCP
	}
	f, ok := r.find(snap, client, host)
	if !ok || f.pod != nil || f.wildcard {
		return a, false
	}
	i := slices.IndexFunc(f.ports, func(d *config.Destination) bool { return d.Port.Name == port[1:] })
	if i < 0 {
		return a, false
	}
	service := dns.Fqdn(f.service.Hostname)
	if len(f.service.Addresses) > 0 {
		a.Records = append(a.Records, srv(q.Name, service, f.ports[i].Port.Service))
		a.Extra = r.extra(a.Extra, client, &f, service)
		return a, true
	}
	for _, e := range f.ports[i].Endpoints {
		w := e.Workload
		if w.Network != client.Network || len(w.Addresses) == 0 || len(a.Records) == maxRecords {
			continue
		}
		target := ownName(w)
		if target == "" {
			target = dashed(w.Addresses[0])
		}
		target += "." + service
		if _, valid := dns.IsDomainName(target); !valid {
			continue
		}
		a.Records = append(a.Records, srv(q.Name, target, e.Addr.Port()))
		a.Extra = r.extra(a.Extra, client, &finding{service: f.service, pod: w}, target)
	}
	r.shuffle(len(a.Records), func(i, j int) { a.Records[i], a.Records[j] = a.Records[j], a.Records[i] })
	return a, true
}

// extra appends the addresses of the target of an SRV record, which saves the
// client from asking.
func (r *Resolver) extra(out []dns.RR, client *mesh.Workload, f *finding, owner string) []dns.RR {
	for _, qtype := range [...]uint16{dns.TypeA, dns.TypeAAAA} {
		for _, ip := range r.addresses(client, f, qtype) {
			out = append(out, address(owner, ip))
		}
	}
	return out
}

func header(owner string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: owner, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

func address(owner string, ip netip.Addr) dns.RR {
	if ip.Is4() {
		return &dns.A{Hdr: header(owner, dns.TypeA), A: ip.AsSlice()}
	}
	return &dns.AAAA{Hdr: header(owner, dns.TypeAAAA), AAAA: ip.AsSlice()}
}

// srv has the weight that Kubernetes' DNS gives a record that stands alone; all
// are alike.
func srv(owner, target string, port uint16) dns.RR {
	return &dns.SRV{Hdr: header(owner, dns.TypeSRV), Priority: 0, Weight: 100, Port: port, Target: target}
}
