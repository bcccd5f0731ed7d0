package manifest

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// resolv returns how a pod's stub resolver makes names whole, where its spec
// does not leave that to the cluster (Kubernetes, "DNS for Services and Pods"):
// with dnsPolicy ClusterFirst there are the cluster's domains and then those of
// dnsConfig; with None, those of dnsConfig alone; with Default, the node's, which
// no manifest tells, and those of dnsConfig.
func (o *Options) resolv(p *corev1.Pod) *mesh.Resolv {
	c := p.Spec.DNSConfig
	policy := p.Spec.DNSPolicy
	if policy == corev1.DNSClusterFirst || policy == corev1.DNSClusterFirstWithHostNet {
		policy = ""
	}
	if c == nil && policy == "" {
		return nil
	}
	out := &mesh.Resolv{Ndots: 1} // resolv.conf(5)
	if policy == "" {
		domain := strings.ToLower(o.ClusterDomain)
		out.Search = []string{p.Namespace + ".svc." + domain, "svc." + domain, domain}
		out.Ndots = 5 // the kubelet's
	}
	if c == nil {
		return out
	}
	for _, domain := range c.Searches {
		if domain = strings.ToLower(strings.TrimSuffix(domain, ".")); domain != "" {
			out.Search = append(out.Search, domain)
		}
	}
	for _, option := range c.Options {
		if option.Name != "ndots" || option.Value == nil {
			continue
		}
		if n, err := strconv.ParseUint(*option.Value, 10, 8); err == nil {
			out.Ndots = min(int(n), 15) // RES_MAXNDOTS
		}
	}
	return out
}
