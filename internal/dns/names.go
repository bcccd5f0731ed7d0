package dns

import (
	"slices"
	"strings"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A candidate is a name that a question may mean.
type candidate struct {
	host string // lower case, without the last dot

	// stripped is the name without a domain of the client's search list: who
	// asked is told so by a CNAME. "" when nothing was taken away.
	stripped string
}

// candidates appends what a client may mean by a name, in the order in which it
// is tried:
//
//	as it is                         web.shop.svc.cluster.local, db.example.com
//	as a Kubernetes name             web, web.shop, web.shop.svc, web-0.web.shop
//	without a domain that was added  db.example.com.shop.svc.cluster.local
//	and that as a Kubernetes name
//
// The client's stub has walked its search list, or is about to: whichever of its
// questions comes first and means something is answered, which saves it the
// others.
func (r *Resolver) candidates(out []candidate, client *mesh.Workload, name string) []candidate {
	add := func(host, stripped string) {
		same := func(c candidate) bool { return c.host == host }
		if !slices.ContainsFunc(out, same) {
			out = append(out, candidate{host, stripped})
		}
	}
	search, ndots := r.searchOf(client)
	add(name, "")
	r.expand(name, client.Namespace, search, func(host string) { add(host, "") })
	for _, domain := range search {
		rest, ok := strings.CutSuffix(name, "."+domain)
		if !ok || rest == "" || ndots > 0 && strings.Count(rest, ".") >= ndots {
			continue // the stub would have asked for it as it is, first
		}
		add(rest, rest)
		r.expand(rest, client.Namespace, search, func(host string) { add(host, rest) })
	}
	return out
}

// searchOf returns the search list of a client and, if it is known, how many
// dots a name needs to be asked for as it is first; else 0.
func (r *Resolver) searchOf(client *mesh.Workload) (search []string, ndots int) {
	if c := client.Resolv; c != nil {
		return c.Search, c.Ndots
	}
	return []string{client.Namespace + ".svc." + r.domain, "svc." + r.domain, r.domain}, 0
}

// expand yields the names in the cluster's domain that a short name can stand
// for: those that its number of labels allows, by the domains that the client
// searches. One that searches none of the cluster's, by its own dnsConfig, means
// what it says: web.dev is not a service of the namespace dev to it.
func (r *Resolver) expand(name, namespace string, search []string, yield func(string)) {
	with := func(domain string) {
		if slices.Contains(search, domain) {
			yield(name + "." + domain)
		}
	}
	cluster, services := r.domain, "svc."+r.domain
	switch labels, svc := strings.Count(name, ".")+1, strings.HasSuffix(name, ".svc"); {
	case labels == 1: // service
		with(namespace + "." + services)
	case labels == 2: // service.namespace, pod.service
		with(services)
		with(namespace + "." + services)
	case labels == 3: // service.namespace.svc, pod.service.namespace
		if svc {
			with(cluster)
		}
		with(services)
	case labels == 4 && svc: // pod.service.namespace.svc
		with(cluster)
	}
}
