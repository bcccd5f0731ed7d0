package capture

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Annotations of a pod that ForPod reads. The first three are Istio's for
// ambient pods; the others are those of its sidecars, with their meaning.
const (
	BypassInbound     = "ambient.istio.io/bypass-inbound-capture"
	DNSCapture        = "ambient.istio.io/dns-capture"
	RerouteInterfaces = "istio.io/reroute-virtual-interfaces"

	IncludeInboundPorts  = "traffic.sidecar.istio.io/includeInboundPorts"
	ExcludeInboundPorts  = "traffic.sidecar.istio.io/excludeInboundPorts"
	IncludeOutboundPorts = "traffic.sidecar.istio.io/includeOutboundPorts"
	ExcludeOutboundPorts = "traffic.sidecar.istio.io/excludeOutboundPorts"
	IncludeOutboundCIDRs = "traffic.sidecar.istio.io/includeOutboundIPRanges"
	ExcludeOutboundCIDRs = "traffic.sidecar.istio.io/excludeOutboundIPRanges"
)

// ForPod returns base as a pod's annotations change it. An annotation that
// cannot be read changes nothing, so that a slip never lets traffic past; the
// error joins one for each, naming annotation and value. The others count.
func ForPod(base Options, annotations map[string]string) (Options, error) {
	r := reader{annotations: annotations}
	r.flag(BypassInbound, &base.InboundBypass)
	r.flag(DNSCapture, &base.DNS)
	read(&r, RerouteInterfaces, false, &base.RerouteInterfaces, func(s string) (string, error) { return s, checkInterface(s) })
	read(&r, IncludeInboundPorts, true, &base.IncludeInboundPorts, parsePort)
	read(&r, ExcludeInboundPorts, false, &base.ExcludeInboundPorts, parsePort)
	read(&r, IncludeOutboundPorts, false, &base.IncludeOutboundPorts, parsePort)
	read(&r, ExcludeOutboundPorts, false, &base.ExcludeOutboundPorts, parsePort)
	read(&r, IncludeOutboundCIDRs, true, &base.IncludeOutboundCIDRs, parseCIDR)
	read(&r, ExcludeOutboundCIDRs, false, &base.ExcludeOutboundCIDRs, parseCIDR)
	return base, errors.Join(r.errs...)
}

type reader struct {
	annotations map[string]string
	errs        []error
}

func (r *reader) refuse(name string, err error) {
	r.errs = append(r.errs, fmt.Errorf("annotation %s: %q: %w", name, r.annotations[name], err))
}

func (r *reader) flag(name string, to *bool) {
	v, ok := r.annotations[name]
	if !ok {
		return
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		r.refuse(name, errors.New("want true or false"))
		return
	}
	*to = b
}

// read parses a comma-separated list. If all may be said, "*" is nil; an empty
// value is an empty list.
func read[T comparable](r *reader, name string, all bool, to *[]T, parse func(string) (T, error)) {
	v, ok := r.annotations[name]
	if !ok {
		return
	}
	if all && strings.TrimSpace(v) == "*" {
		*to = nil
		return
	}
	list := []T{}
	for s := range strings.SplitSeq(v, ",") {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		e, err := parse(s)
		if err != nil {
			r.refuse(name, err)
			return
		}
		if !slices.Contains(list, e) {
			list = append(list, e)
		}
		if len(list) > MaxEntries {
			r.refuse(name, fmt.Errorf("more than %d entries", MaxEntries))
			return
		}
	}
	*to = list
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is no port, 1 to 65535", s)
	}
	return uint16(n), nil
}

// parseCIDR takes bits beyond the prefix, as Istio does: 10.1.2.3/8 is 10.0.0.0/8.
func parseCIDR(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is no range of addresses such as 10.0.0.0/8", s)
	}
	return p.Masked(), nil
}
