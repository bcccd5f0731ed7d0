package xds

import (
	"encoding/binary"
	"slices"

	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/xds/workloadapi"
)

// maxShared bounds each part of a shared. It is emptied when it is full: what is
// then not shared any more costs memory, and nothing else. 65536 strings are
// some megabytes.
const maxShared = 1 << 16

// A shared has what is said of many workloads in memory once: names, the services
// that they are of, the policies that they list. Of 200,000 workloads the wire
// has two million strings, of which some ten thousand differ. The zero shared is
// empty.
type shared struct {
	texts      map[string]string
	gateways   map[mesh.GatewayAddress]*mesh.GatewayAddress
	members    map[string]map[mesh.Hostname]mesh.Membership
	policies   map[string][]mesh.Key
	identities map[identity.ID]bool // whether it is one

	// Of membershipKey, to be used again.
	names []string
	key   []byte
}

// keep adds to one of the parts.
func keep[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil || len(*m) >= maxShared {
		*m = map[K]V{}
	}
	(*m)[k] = v
}

// text returns a string equal to s.
func (s *shared) text(t string) string {
	if t == "" {
		return ""
	}
	if known, ok := s.texts[t]; ok {
		return known
	}
	keep(&s.texts, t, t)
	return t
}

// or returns a string equal to t, or otherwise if that is empty.
func (s *shared) or(t, otherwise string) string {
	if t == "" {
		return otherwise
	}
	return s.text(t)
}

func (s *shared) gateway(g mesh.GatewayAddress) *mesh.GatewayAddress {
	if known := s.gateways[g]; known != nil {
		return known
	}
	keep(&s.gateways, g, &g)
	return &g
}

func (s *shared) keepMembers(key string, m map[mesh.Hostname]mesh.Membership) {
	keep(&s.members, key, m)
}

func (s *shared) keepPolicies(list string, keys []mesh.Key) { keep(&s.policies, list, keys) }

func (s *shared) keepIdentity(id identity.ID, ok bool) { keep(&s.identities, id, ok) }

// membershipKey returns a text that is the same for workloads of the same
// services that listen at the same ports. It is valid until the next call.
func (s *shared) membershipKey(in map[string]*workloadapi.PortList) []byte {
	s.names = s.names[:0]
	for name := range in {
		s.names = append(s.names, name)
	}
	slices.Sort(s.names)
	key := s.key[:0]
	for _, name := range s.names {
		key = binary.BigEndian.AppendUint32(key, uint32(len(name)))
		key = append(key, name...)
		key = binary.BigEndian.AppendUint32(key, uint32(len(in[name].GetPorts())))
		for _, p := range in[name].GetPorts() {
			key = binary.BigEndian.AppendUint32(key, p.GetServicePort())
			key = binary.BigEndian.AppendUint32(key, p.GetTargetPort())
		}
	}
	s.key = key
	return key
}
