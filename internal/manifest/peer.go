package manifest

import (
	"cmp"
	"maps"
	"slices"
	"strconv"

	securityv1 "istio.io/api/security/v1"
	clientv1 "istio.io/client-go/pkg/apis/security/v1"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A PeerAuthentication asks that clients show a certificate. The node tunnel
// has no such switch: what refuses plaintext there is a policy that denies
// peers without identity, which the workloads concerned list. These are its
// names, as Istio has them.
const (
	strictName    = "istio_converted_static_strict"
	convertedName = "converted_peer_authentication_"
)

// madeUp selects nothing: a policy that stands for a PeerAuthentication takes
// effect where a workload lists it, and nowhere else.
var madeUp = map[string]string{"waystone.dev/made-from": kindPeer}

const (
	modeUnset      = securityv1.PeerAuthentication_MutualTLS_UNSET
	modeDisable    = securityv1.PeerAuthentication_MutualTLS_DISABLE
	modePermissive = securityv1.PeerAuthentication_MutualTLS_PERMISSIVE
	modeStrict     = securityv1.PeerAuthentication_MutualTLS_STRICT
)

func strictMTLS() *securityv1.PeerAuthentication_MutualTLS {
	return &securityv1.PeerAuthentication_MutualTLS{Mode: modeStrict}
}

func validatePeer(p *clientv1.PeerAuthentication) *fault {
	if len(p.Spec.PortLevelMtls) > 0 && len(p.Spec.Selector.GetMatchLabels()) == 0 {
		return faultf("spec.portLevelMtls", "needs a selector")
	}
	for _, port := range slices.Sorted(maps.Keys(p.Spec.PortLevelMtls)) {
		if port < 1 || port > 65535 {
			return faultf(`spec.portLevelMtls["`+strconv.FormatUint(uint64(port), 10)+`"]`, "is not a port from 1 to 65535")
		}
	}
	return nil
}

// strictness is what the PeerAuthentications say about one workload.
type strictness struct {
	strict bool // every port, but for those of except
	except *clientv1.PeerAuthentication
}

// older orders objects by age and then by name, so that of two that contradict
// each other the same one always wins.
func older(a, b *clientv1.PeerAuthentication) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// whole reports whether a PeerAuthentication is for its whole namespace (or
// mesh).
func whole(p *clientv1.PeerAuthentication) bool { return len(p.Spec.Selector.GetMatchLabels()) == 0 }

// oldest returns the oldest of those that match, or nil.
func oldest(in map[string]*clientv1.PeerAuthentication, match func(*clientv1.PeerAuthentication) bool) *clientv1.PeerAuthentication {
	var out *clientv1.PeerAuthentication
	for _, p := range in {
		if match(p) && (out == nil || older(p, out) < 0) {
			out = p
		}
	}
	return out
}

// inherited reports whether the mesh and then the namespace ask for STRICT.
func (x *Index) inherited(namespace string) bool {
	strict := false
	for _, name := range []string{x.o.RootNamespace, namespace} {
		p := oldest(x.namespace(name).peers, whole)
		if p == nil {
			continue
		}
		if m := p.Spec.Mtls.GetMode(); m != modeUnset {
			strict = m == modeStrict
		}
	}
	return strict
}

// strictnessOf returns what holds for a pod with the labels. The root
// namespace's PeerAuthentications have no selector that counts.
func (x *Index) strictnessOf(namespace string, labels map[string]string) strictness {
	own := (*clientv1.PeerAuthentication)(nil)
	if namespace != x.o.RootNamespace {
		own = oldest(x.namespace(namespace).peers, func(p *clientv1.PeerAuthentication) bool {
			return !whole(p) && selects(p.Spec.Selector.MatchLabels, labels)
		})
	}
	s := strictness{strict: x.inherited(namespace)}
	if own == nil {
		return s
	}
	s.strict = x.strictBy(own)
	if len(exceptions(own, s.strict)) > 0 {
		s.except = own
	}
	return s
}

// strictBy reports whether a PeerAuthentication with a selector asks for STRICT
// on the ports that it does not name.
func (x *Index) strictBy(p *clientv1.PeerAuthentication) bool {
	if m := p.Spec.Mtls.GetMode(); m != modeUnset {
		return m == modeStrict
	}
	return x.inherited(p.Namespace)
}

// exceptions lists the ports that a PeerAuthentication sets otherwise than the
// rest, which is STRICT or not.
func exceptions(p *clientv1.PeerAuthentication, strict bool) []string {
	var ports []string
	for _, port := range slices.Sorted(maps.Keys(p.Spec.PortLevelMtls)) {
		m := p.Spec.PortLevelMtls[port].GetMode()
		if m != modeUnset && (m == modeStrict) != strict {
			ports = append(ports, strconv.FormatUint(uint64(port), 10))
		}
	}
	return ports
}

// keys returns the policies that stand for s.
func (x *Index) strictKeys(s strictness) []mesh.Key {
	switch {
	case s.except != nil:
		return []mesh.Key{{Kind: authz.Kind, Namespace: s.except.Namespace, Name: convertedName + s.except.Name}}
	case s.strict:
		return []mesh.Key{{Kind: authz.Kind, Namespace: x.o.RootNamespace, Name: strictName}}
	}
	return nil
}

// strictPolicy denies every peer without identity.
func (x *Index) strictPolicy() *authz.Policy {
	return &authz.Policy{
		Name: strictName, Namespace: x.o.RootNamespace,
		Action: authz.Deny, Selector: madeUp,
		Rules: []authz.Rule{{From: []authz.Source{anonymous()}}},
	}
}

// anonymous is any peer without identity.
func anonymous() authz.Source { return authz.Source{NotPrincipals: []string{"*"}} }

// convertPeer returns the policy for a PeerAuthentication some of whose ports
// differ from the rest, or nil if none does.
func (x *Index) convertPeer(p *clientv1.PeerAuthentication) *authz.Policy {
	strict := x.strictBy(p)
	ports := exceptions(p, strict)
	if len(ports) == 0 {
		return nil
	}
	to := authz.Operation{Ports: ports}
	if strict {
		to = authz.Operation{NotPorts: ports}
	}
	return &authz.Policy{
		Name: convertedName + p.Name, Namespace: p.Namespace,
		Action: authz.Deny, Selector: madeUp,
		Rules: []authz.Rule{{From: []authz.Source{anonymous()}, To: []authz.Operation{to}}},
	}
}

// anyStrict reports whether a PeerAuthentication anywhere asks for STRICT.
func anyStrict(p *clientv1.PeerAuthentication) bool {
	if p.Spec.Mtls.GetMode() == modeStrict {
		return true
	}
	for _, m := range p.Spec.PortLevelMtls {
		if m.GetMode() == modeStrict {
			return true
		}
	}
	return false
}
