package policy

import (
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
)

// A comparison is what all replayers have in common.
type comparison struct {
	// Immutable.
	o             *ReplayOptions
	columns       []int
	normalization routing.Normalization
	sameCustom    bool // New and Base ask the same authorizers about the same
	sameTokens    bool // they verify the same tokens

	mu     sync.Mutex
	judges map[*authz.Set]*authz.Judge // Guarded by mu.
}

func newComparison(o *ReplayOptions) *comparison {
	c := &comparison{o: o, judges: map[*authz.Set]*authz.Judge{}, sameTokens: true}
	c.normalization = o.New.said().Normalization
	for _, name := range o.By {
		c.columns = append(c.columns, slices.Index(Columns, name))
	}
	if o.Base != nil {
		c.sameCustom = reflect.DeepEqual(o.New.custom(), o.Base.custom())
		c.sameTokens = reflect.DeepEqual(o.New.authentications(), o.Base.authentications())
	}
	return c
}

// custom returns the policies that have others asked.
func (m *Mesh) custom() (out []*authz.Policy) {
	for _, u := range m.updates {
		if p, ok := u.Value.(*authz.Policy); ok && u.Err == nil && p.Action == authz.Custom {
			out = append(out, p)
		}
	}
	return out
}

// authentications returns what says which tokens are valid.
func (m *Mesh) authentications() (out []*jwt.RequestAuthentication) {
	for _, u := range m.updates {
		if p, ok := u.Value.(*jwt.RequestAuthentication); ok && u.Err == nil {
			out = append(out, p)
		}
	}
	return out
}

// issuers returns those whose tokens are valid, or nil if anybody's may be.
func (m *Mesh) issuers() (out []string) {
	for _, a := range m.authentications() {
		for i := range a.Rules {
			if a.Rules[i].Issuer == "" {
				return nil
			}
			out = append(out, a.Rules[i].Issuer)
		}
	}
	return out
}

// judge returns the judge of a set.
func (c *comparison) judge(s *authz.Set) *authz.Judge {
	c.mu.Lock()
	defer c.mu.Unlock()
	j := c.judges[s]
	if j == nil {
		j = authz.NewJudge(s)
		c.judges[s] = j
	}
	return j
}

// A target is what requests were to: in the eyes of the waypoint before it.
type target struct {
	name      string
	dest      netip.AddrPort // as policies see it
	lack      authz.Lack     // what of every request to it is not known
	new, base side
}

// A side is a target by one set of policies.
type side struct {
	there   bool // the waypoint serves it
	judge   *authz.Judge
	tokens  *jwt.Set
	closed  bool                // tokens refuse everything: a RequestAuthentication cannot be enforced
	issuers []string            // of tokens; nil: any
	names   map[uint64][]string // of judge: what a Judgement is missing

	remembered map[string]authz.Judgement // see judged
}

// maxTargets is how many a replayer remembers.
const maxTargets = 1 << 16

// target returns what a line is to, or nil if that cannot be found.
func (r *replayer) target(l *logLine) *target {
	local, _ := l.downstreamLocal.has()
	if t, known := r.targets[local]; known && t != nil {
		return t
	}
	cluster, _ := l.upstreamCluster.has()
	authority, _ := l.authority.has()
	key := local + " " + cluster + " " + authority
	if t, known := r.targets[key]; known {
		return t
	}
	if len(r.targets) > maxTargets {
		clear(r.targets)
	}
	t, sure := r.find(local, cluster, authority)
	if sure {
		key = strings.Clone(local)
	}
	r.targets[key] = t
	return t
}

// find looks for what was dialled: by the address, which is what a waypoint goes
// by; or, where the manifests do not know that, by the cluster's name, unless a
// route may have led there; or by the authority. It is sure of an address only.
func (c *comparison) find(local, cluster, authority string) (t *target, sure bool) {
	addr, err := netip.ParseAddrPort(local)
	v := c.o.New.view(node)
	if err == nil {
		if d := v.Lookup("", "", mesh.Authority{IP: addr.Addr().Unmap(), Port: addr.Port()}); d != nil {
			return c.targetOf(d, addr), true
		}
	}
	if a, err := mesh.ParseAuthority(local); err == nil && a.Host != "" { // the CONNECT named it
		if d := v.Lookup("", "", a); d != nil {
			return c.targetOf(d, netip.AddrPortFrom(netip.Addr{}, a.Port)), true
		}
	}
	if host, port, ok := inCluster(cluster); ok {
		if d := v.Lookup("", "", mesh.Authority{Host: host, Port: port}); d != nil && d.Service != nil && !routedTo(v, d.Service) {
			return c.targetOf(d, netip.AddrPortFrom(addr.Addr(), port)), false
		}
	}
	host, text, _ := strings.Cut(authority, ":")
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		port = max(80, uint64(addr.Port()))
	}
	if strings.Contains(host, ".") {
		if d := v.Lookup("", "", mesh.Authority{Host: strings.ToLower(host), Port: uint16(port)}); d != nil {
			return c.targetOf(d, netip.AddrPortFrom(addr.Addr(), uint16(port))), false
		}
	}
	return nil, false
}

// inCluster finds the service in inbound-vip|9080|http|host.
func inCluster(name string) (host string, port uint16, ok bool) {
	parts := strings.Split(name, "|")
	if len(parts) != 4 || parts[0] != "inbound-vip" && parts[0] != "outbound" {
		return "", 0, false
	}
	n, err := strconv.ParseUint(parts[1], 10, 16)
	return strings.TrimSuffix(parts[3], ";"), uint16(n), err == nil
}

// routedTo reports whether requests to other services may come to s.
func routedTo(v *view, s *mesh.Service) bool {
	for _, r := range v.Routes() {
		if r.Speaks(s, nil) && len(r.Parents) == 1 {
			continue
		}
		for i := range r.Rules {
			if slices.ContainsFunc(r.Rules[i].Backends, func(b routing.Backend) bool { return b.Service == s.Host() }) {
				return true
			}
		}
	}
	return false
}

// targetOf returns the target that is a destination, which was dialled at addr. Its
// address may not be known.
func (c *comparison) targetOf(d *config.Destination, addr netip.AddrPort) *target {
	t := &target{dest: addr}
	a := mesh.Authority{IP: addr.Addr().Unmap(), Port: addr.Port()}
	if !addr.Addr().IsValid() || c.o.New.view(node).Lookup("", "", a) != d {
		a.IP = netip.Addr{}
		t.lack |= authz.Lacking(authz.DestIP)
	}
	switch {
	case d.Service != nil:
		t.name = "Service " + d.Service.Namespace + "/" + d.Service.Name
		if a.Host = d.Service.Hostname; a.IP.IsValid() {
			a.Host = ""
		}
		if rewritesHost(c.o.New.view(node), d.Service) || c.o.Base != nil && rewritesHost(c.o.Base.view(node), d.Service) {
			t.lack |= authz.Lacking(authz.Host)
		}
	default:
		t.name = "pod " + d.Workload.Namespace + "/" + d.Workload.Name
	}
	t.new = c.sideOf(c.o.New, a)
	if c.o.Base != nil {
		t.base = c.sideOf(c.o.Base, a)
	}
	return t
}

// rewritesHost reports whether a route may have changed what the log has for the
// authority.
func rewritesHost(v *view, s *mesh.Service) bool {
	for _, r := range v.Routes() {
		if r.Speaks(s, nil) && slices.ContainsFunc(r.Rules, func(x routing.RouteRule) bool {
			return x.Filters.Rewrite != nil && x.Filters.Rewrite.Hostname != ""
		}) {
			return true
		}
	}
	return false
}

// sideOf returns what the waypoint before a destination makes of it.
func (c *comparison) sideOf(m *Mesh, a mesh.Authority) side {
	var gw *mesh.GatewayAddress
	d := m.view(node).Lookup("", "", a)
	switch {
	case d == nil:
		return side{}
	case d.Service != nil:
		gw = d.Service.Waypoint
	default:
		gw = d.Workload.Waypoint
	}
	k, ok := m.gatewayAt(gw)
	if !ok {
		return side{}
	}
	found := m.view(k).Lookup("", "", a)
	if found == nil || !found.Attached {
		return side{}
	}
	s := side{there: true, judge: c.judge(found.Policies), tokens: found.Tokens, issuers: m.issuers(), names: map[uint64][]string{}}
	if res := s.tokens.Check(time.Time{}, &l7.Request{Method: "GET"}, nil, nil); !res.Allowed {
		s.closed = true // for one without a token passes otherwise
	}
	return s
}
