package xds

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/waystone-mesh/waystone/authz"
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
	identities map[identity.ID]bool // whether it is one

	// By what is on the wire.
	wireGateways map[string]*mesh.GatewayAddress
	localities   map[string]mesh.Locality
	members      map[string]map[mesh.Hostname]mesh.Membership
	policies     map[string][]mesh.Key

	notText bool // bytes was asked for what is not UTF-8

	// To be used again.
	key    []byte
	sorted [][]byte
}

// keep adds to one of the parts.
func keep[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil || len(*m) >= maxShared {
		*m = map[K]V{}
	}
	(*m)[k] = v
}

// text returns a string equal to t.
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

// bytes returns a string of what is on the wire. If that is no text, notText is
// set.
func (s *shared) bytes(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if known, ok := s.texts[string(b)]; ok {
		return known
	}
	if !utf8.Valid(b) {
		s.notText = true
		return ""
	}
	return s.text(string(b))
}

// or returns bytes of b, or otherwise if that is empty.
func (s *shared) or(b []byte, otherwise string) string {
	if len(b) == 0 {
		return otherwise
	}
	return s.bytes(b)
}

func (s *shared) gateway(g mesh.GatewayAddress) *mesh.GatewayAddress {
	if known := s.gateways[g]; known != nil {
		return known
	}
	keep(&s.gateways, g, &g)
	return &g
}

// locality converts where a workload runs.
func (s *shared) locality(wire []byte) (mesh.Locality, error) {
	if known, ok := s.localities[string(wire)]; ok || wire == nil {
		return known, nil
	}
	var l workloadapi.Locality
	if err := proto.Unmarshal(wire, &l); err != nil {
		return mesh.Locality{}, err
	}
	out := mesh.Locality{Region: s.text(l.Region), Zone: s.text(l.Zone), Subzone: s.text(l.Subzone)}
	keep(&s.localities, string(wire), out)
	return out, nil
}

// memberships converts what services a workload is of, and where it listens for
// each. Workloads of the same services share the map.
func (s *shared) memberships(entries [][]byte) (map[mesh.Hostname]mesh.Membership, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	sorted := entries
	if len(entries) > 1 { // a map has no order
		s.sorted = append(s.sorted[:0], entries...)
		slices.SortFunc(s.sorted, bytes.Compare)
		sorted = s.sorted
	}
	key := s.keyOf(sorted)
	if m, ok := s.members[string(key)]; ok {
		return m, nil
	}
	var in workloadapi.Workload
	var wire []byte
	for _, e := range entries {
		wire = protowire.AppendBytes(protowire.AppendTag(wire, 22, protowire.BytesType), e)
	}
	if err := proto.Unmarshal(wire, &in); err != nil {
		return nil, err
	}
	out := make(map[mesh.Hostname]mesh.Membership, len(in.Services))
	for name, list := range in.Services {
		ns, host, ok := strings.Cut(name, "/")
		if !ok || ns == "" || host == "" {
			return nil, fmt.Errorf("services[%q]: is not of the form namespace/hostname", name)
		}
		m, err := membership(name, list)
		if err != nil {
			return nil, err
		}
		out[mesh.Hostname{Namespace: s.text(ns), Host: s.text(host)}] = m
	}
	if len(in.Services) == len(entries) { // else one is there twice, and the last counts
		keep(&s.members, string(key), out)
	}
	return out, nil
}

// membership converts where a workload listens for a service.
func membership(name string, list *workloadapi.PortList) (m mesh.Membership, err error) {
	for _, p := range list.GetPorts() {
		from, err := port("services["+name+"].service_port", p.GetServicePort())
		if err != nil {
			return m, err
		}
		to, err := port("services["+name+"].target_port", p.GetTargetPort())
		if err != nil {
			return m, err
		}
		if m.Ports == nil {
			m.Ports = make(map[uint16]uint16, len(list.Ports))
		}
		m.Ports[from] = to
	}
	return m, nil
}

// policyKeys converts the names of policies that select a workload.
func (s *shared) policyKeys(names [][]byte) ([]mesh.Key, error) {
	if len(names) == 0 {
		return nil, nil
	}
	key := s.keyOf(names)
	if keys, ok := s.policies[string(key)]; ok {
		return keys, nil
	}
	out := make([]mesh.Key, len(names))
	for i, name := range names {
		if !utf8.Valid(name) {
			return nil, errUTF8
		}
		ns, n, ok := strings.Cut(string(name), "/")
		if !ok || ns == "" || n == "" {
			return nil, fmt.Errorf("authorization_policies[%d]: %q is not of the form namespace/name", i, name)
		}
		out[i] = mesh.Key{Kind: authz.Kind, Namespace: s.text(ns), Name: s.text(n)}
	}
	keep(&s.policies, string(key), out)
	return out, nil
}

// keyOf returns what is the same for the same list, and for no other. It is valid
// until the next call.
func (s *shared) keyOf(list [][]byte) []byte {
	s.key = s.key[:0]
	for _, b := range list {
		s.key = append(binary.BigEndian.AppendUint32(s.key, uint32(len(b))), b...)
	}
	return s.key
}

// isIdentity reports whether an identity is one that a certificate can have.
func (s *shared) isIdentity(id identity.ID) bool {
	ok, seen := s.identities[id]
	if !seen {
		got, err := identity.Parse(id.String())
		ok = err == nil && got == id
		keep(&s.identities, id, ok)
	}
	return ok
}
