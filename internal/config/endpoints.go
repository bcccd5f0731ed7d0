package config

import (
	"net/netip"
	"slices"
	"unique"

	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// endpoints returns those of the members that may serve a port: ready, or any
// if the service says so; known to listen; and of these, as near as its
// balance demands.
func (b *builder) endpoints(svc *mesh.Service, port uint16, members []*workloadState) []mesh.Endpoint {
	out := make([]mesh.Endpoint, 0, len(members))
	best := 0
	for _, st := range members {
		w := st.workload
		target := svc.TargetPort(w, port)
		if target == 0 || w.Unhealthy && !svc.Balance.AllowUnhealthy {
			continue
		}
		rank, ok := b.nearness(&svc.Balance, w)
		if !ok || rank < best {
			continue
		}
		ep, ok := b.endpoint(svc, st, target)
		if !ok {
			continue
		}
		if rank > best {
			best, out = rank, out[:0]
		}
		out = append(out, ep)
	}
	return slices.Clip(out)
}

// endpoint returns a workload as an endpoint of svc, which may be nil, and
// whether there is a way to it.
func (b *builder) endpoint(svc *mesh.Service, st *workloadState, port uint16) (mesh.Endpoint, bool) {
	w := st.workload
	remote := w.Network != b.options.Network
	families := mesh.AnyFamily
	if svc != nil {
		families = svc.Families
	}
	ip := pickAddress(w.Addresses, families)
	if remote && w.Gateway == nil || !remote && !ip.IsValid() && w.Hostname == "" {
		return mesh.Endpoint{}, false
	}
	return mesh.Endpoint{Workload: w, Addr: netip.AddrPortFrom(ip, port), Wants: wants(st, svc), Load: &st.load}, true
}

// heaviest returns the largest capacity of endpoints.
func heaviest(eps []mesh.Endpoint) (most uint32) {
	for i := range eps {
		most = max(most, 1, eps[i].Workload.Capacity)
	}
	return most
}

// pickAddress returns the first address of a family that is wanted, or the
// first if there is none.
func pickAddress(all []netip.Addr, families mesh.IPFamilies) netip.Addr {
	for _, ip := range all {
		if families == mesh.AnyFamily || families == mesh.DualStack || ip.Is4() == (families == mesh.IPv4Only) {
			return ip
		}
	}
	if len(all) > 0 {
		return all[0]
	}
	return netip.Addr{}
}

// wants returns the identities that a workload of a service may present, as
// identity.JoinIDs spells them. Equal ones are one string: a service account's
// pods are many. A SAN that is no identity accepts nobody.
func wants(st *workloadState, svc *mesh.Service) string {
	if svc == nil || len(svc.SANs) == 0 {
		return st.identity
	}
	ids := []identity.ID{st.workload.Identity()}
	for _, san := range svc.SANs {
		if id, err := identity.Parse(san); err == nil {
			ids = append(ids, id)
		}
	}
	return unique.Make(identity.JoinIDs(ids...)).Value()
}

// nearness ranks a workload by the service's preference, and reports whether it
// is near enough to be used at all.
func (b *builder) nearness(how *mesh.Balance, w *mesh.Workload) (rank int, ok bool) {
	if how.Mode != mesh.Strict && how.Mode != mesh.Failover {
		return 0, true
	}
	required := how.Preference
	if how.Mode == mesh.Strict && len(required) > 0 && required[0] == mesh.Network {
		// A network is preferred even then: the others are reached by gateways.
		if b.shares(mesh.Network, w) {
			rank = 1
		}
		required = required[1:]
	}
	for i, scope := range required {
		if !b.shares(scope, w) {
			if how.Mode == mesh.Strict {
				return 0, false
			}
			return i, true
		}
	}
	if how.Mode == mesh.Failover {
		rank = len(required)
	}
	return rank, true
}

// shares reports whether a workload is in the same place as we are.
func (b *builder) shares(scope mesh.Scope, w *mesh.Workload) bool {
	switch scope {
	case mesh.Region:
		return w.Locality.Region == b.near.Region
	case mesh.Zone:
		return w.Locality.Zone == b.near.Zone
	case mesh.Subzone:
		return w.Locality.Subzone == b.near.Subzone
	case mesh.Node:
		return w.Node == b.options.Node
	case mesh.Cluster:
		return w.ClusterID == b.options.ClusterID
	case mesh.Network:
		return w.Network == b.options.Network
	}
	return false
}
