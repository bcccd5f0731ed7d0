package xds

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/waystone-mesh/waystone/internal/xds/workloadapi"
)

// readClause reads the alternatives of a clause. A Match that asks for nothing
// matches nothing, and is left out: istiod leaves one where it has taken out what
// only a waypoint can see.
func readClause(clause *workloadapi.Rules) ([]alternative, error) {
	var out []alternative
	for i, m := range clause.GetMatches() {
		a, err := readMatch(m)
		if err != nil {
			return nil, fmt.Errorf("matches[%d].%w", i, err)
		}
		if len(a) > 0 {
			out = append(out, a)
		}
	}
	return out, nil
}

// readMatch reads a Match. A value that cannot be read is an error: without it
// the Match would ask for less.
func readMatch(m *workloadapi.Match) (a alternative, err error) {
	add := func(at attribute, name string, values, notValues []string, valuesErr, notErr error) {
		switch {
		case err != nil:
		case valuesErr != nil:
			err = fmt.Errorf("%s%w", name, valuesErr)
		case notErr != nil:
			err = fmt.Errorf("not_%s%w", name, notErr)
		case len(values)+len(notValues) > 0:
			a = append(a, term{at, values, notValues})
		}
	}
	values, e1 := readAll(m.GetPrincipals(), text)
	notValues, e2 := readAll(m.GetNotPrincipals(), text)
	add(principal, "principals", values, notValues, e1, e2)
	values, e1 = readAll(m.GetNamespaces(), text)
	notValues, e2 = readAll(m.GetNotNamespaces(), text)
	add(namespace, "namespaces", values, notValues, e1, e2)
	values, e1 = readAll(m.GetServiceAccounts(), accountName)
	notValues, e2 = readAll(m.GetNotServiceAccounts(), accountName)
	add(account, "service_accounts", values, notValues, e1, e2)
	values, e1 = readAll(m.GetSourceIps(), block)
	notValues, e2 = readAll(m.GetNotSourceIps(), block)
	add(sourceIP, "source_ips", values, notValues, e1, e2)
	values, e1 = readAll(m.GetDestinationIps(), block)
	notValues, e2 = readAll(m.GetNotDestinationIps(), block)
	add(destinationIP, "destination_ips", values, notValues, e1, e2)
	values, e1 = readAll(m.GetDestinationPorts(), portText)
	notValues, e2 = readAll(m.GetNotDestinationPorts(), portText)
	add(destinationPort, "destination_ports", values, notValues, e1, e2)
	return a, err
}

// readAll reads the values of one field as a policy would write them.
func readAll[T any](in []T, read func(T) (string, error)) ([]string, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := make([]string, len(in))
	for i, v := range in {
		var err error
		if out[i], err = read(v); err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
	}
	return out, nil
}

// text reads a StringMatch: "*", "x*", "*x" or "x". What cannot be written so
// cannot be a part of a SPIFFE ID either, and istiod, which reads policies
// written so, does not send it.
func text(m *workloadapi.StringMatch) (string, error) {
	switch t := m.GetMatchType().(type) {
	case *workloadapi.StringMatch_Presence:
		return "*", nil
	case *workloadapi.StringMatch_Exact:
		if t.Exact == "" {
			return "", errEmpty
		}
		if strings.HasPrefix(t.Exact, "*") || strings.HasSuffix(t.Exact, "*") {
			return "", fmt.Errorf("exact %q: has a wildcard", t.Exact)
		}
		return t.Exact, nil
	case *workloadapi.StringMatch_Prefix:
		if t.Prefix == "" {
			return "", errEmpty
		}
		if strings.HasPrefix(t.Prefix, "*") {
			return "", fmt.Errorf("prefix %q: has a wildcard", t.Prefix)
		}
		return t.Prefix + "*", nil
	case *workloadapi.StringMatch_Suffix:
		if t.Suffix == "" {
			return "", errEmpty
		}
		return "*" + t.Suffix, nil
	}
	return "", errors.New("is of no type that is known")
}

func accountName(m *workloadapi.ServiceAccountMatch) (string, error) {
	ns, sa := m.GetNamespace(), m.GetServiceAccount()
	if ns == "" || sa == "" || strings.ContainsAny(ns+sa, "/*") {
		return "", fmt.Errorf("%q of namespace %q is not a service account", sa, ns)
	}
	return ns + "/" + sa, nil
}

func block(m *workloadapi.IPBlock) (string, error) {
	ip, ok := netip.AddrFromSlice(m.GetAddress())
	if !ok {
		return "", fmt.Errorf("an address of %d bytes", len(m.GetAddress()))
	}
	if m.GetLength() > uint32(ip.BitLen()) {
		return "", fmt.Errorf("length: %d is not one of an address of %d bits", m.GetLength(), ip.BitLen())
	}
	bits := int(m.GetLength())
	if ip.Is4In6() && bits >= 96 {
		ip, bits = ip.Unmap(), bits-96
	}
	p := netip.PrefixFrom(ip, bits)
	if p.IsSingleIP() {
		return ip.String(), nil
	}
	return p.String(), nil
}

func portText(p uint32) (string, error) {
	if p > 65535 {
		return "", fmt.Errorf("%d is not a port", p)
	}
	return strconv.FormatUint(uint64(p), 10), nil
}
