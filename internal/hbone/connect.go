package hbone

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A Connect is the head of a CONNECT: where to, and what its sender says about
// the connection that it carries. Only Authority must be there.
type Connect struct {
	Authority mesh.Authority

	Baggage     string // about the source workload, see [ParseBaggage]
	Forwarded   string // who dialled and what, see [ParseForwarded]
	Traceparent string // a correlation id for logs, see [NewTraceparent]
	Network     string // x-forwarded-network: where a connection from another network came from
	Sender      string // x-istio-source: the kind of proxy that sent it, when that is not a node tunnel
}

// Fields appends the fields of the request, pseudo-fields first, to f.
func (c *Connect) Fields(f l7.Fields) l7.Fields {
	f = append(f, l7.Field{Name: ":method", Value: "CONNECT"}, l7.Field{Name: ":authority", Value: c.Authority.String()})
	for _, x := range [...]l7.Field{
		{Name: "baggage", Value: c.Baggage},
		{Name: "forwarded", Value: c.Forwarded},
		{Name: "traceparent", Value: c.Traceparent},
		{Name: "x-forwarded-network", Value: c.Network},
		{Name: "x-istio-source", Value: c.Sender},
	} {
		if x.Value != "" {
			f = append(f, x)
		}
	}
	return f
}

// errNotConnect says that a request is of another method.
var errNotConnect = errors.New("hbone: not a CONNECT")

// ParseConnect reads the fields of a request, pseudo-fields included. The
// Connect owns its strings.
//
// A CONNECT has :method and :authority and no other pseudo-field (RFC 9113,
// section 8.5). One with :protocol is an extended CONNECT (RFC 8441), which is
// not a tunnel.
func ParseConnect(f l7.Fields) (Connect, error) {
	var method, authority string
	var stray, twice string
	for _, x := range f {
		if !strings.HasPrefix(x.Name, ":") {
			continue
		}
		switch {
		case x.Name == ":method" && method == "":
			method = x.Value
		case x.Name == ":authority" && authority == "":
			authority = x.Value
		case x.Name == ":method" || x.Name == ":authority":
			twice = x.Name
		default:
			stray = x.Name
		}
	}
	switch {
	case twice != "":
		return Connect{}, fmt.Errorf("hbone: request has %s twice", twice)
	case method != "CONNECT":
		return Connect{}, errNotConnect
	case stray != "":
		return Connect{}, fmt.Errorf("hbone: CONNECT has %q", stray)
	case authority == "":
		return Connect{}, errors.New("hbone: CONNECT has no :authority")
	}
	a, err := mesh.ParseAuthority(authority)
	if err != nil {
		return Connect{}, fmt.Errorf("hbone: CONNECT: %w", err)
	}
	c := Connect{
		Authority: a,
		Forwarded: f.Get("forwarded"), Traceparent: f.Get("traceparent"),
		Network: f.Get("x-forwarded-network"), Sender: f.Get("x-istio-source"),
	}
	c.Baggage, _ = f.Joined("baggage") // members may be spread over several (W3C Baggage, section 3.3)
	c.own()
	return c, nil
}

// own makes c's strings its own, carved from one allocation; but the host has
// another, for it is wanted longest.
func (c *Connect) own() {
	c.Authority.Host = strings.Clone(c.Authority.Host)
	all := [...]*string{&c.Baggage, &c.Forwarded, &c.Traceparent, &c.Network, &c.Sender}
	n := 0
	for _, s := range all {
		n += len(*s)
	}
	if n == 0 {
		return
	}
	var b strings.Builder
	b.Grow(n)
	for _, s := range all {
		b.WriteString(*s)
	}
	rest := b.String()
	for _, s := range all {
		*s, rest = rest[:len(*s)], rest[len(*s):]
	}
}

// Forwarded is what the forwarded field says: the address of the client, and
// the host name of the service it dialled, if there is one.
type Forwarded struct {
	For  netip.AddrPort
	Host string
}

// String returns f as a field value, or "" when it says nothing. It is of the
// form that node tunnels send: for="10.0.0.1:4242";host=web.default.svc.
func (f Forwarded) String() string {
	var s strings.Builder
	if f.For.IsValid() {
		s.WriteString(`for="` + f.For.String() + `"`)
	}
	if f.Host != "" && token(f.Host) {
		if s.Len() > 0 {
			s.WriteByte(';')
		}
		s.WriteString("host=" + f.Host)
	}
	return s.String()
}

// ParseForwarded reads the first element of a forwarded field (RFC 7239,
// section 4). What it cannot read it leaves out. Nobody is authorised by it.
func ParseForwarded(s string) Forwarded {
	var f Forwarded
	for s != "" {
		var name, value string
		var last bool
		name, value, s, last = forwardedPair(s)
		switch {
		case strings.EqualFold(name, "for"):
			if ap, err := netip.ParseAddrPort(value); err == nil {
				f.For = ap
			} else if ip, err := netip.ParseAddr(strings.Trim(value, "[]")); err == nil {
				f.For = netip.AddrPortFrom(ip, 0)
			}
		case strings.EqualFold(name, "host"):
			f.Host = value
		}
		if last {
			break
		}
	}
	return f
}

// forwardedPair splits the first name=value off s. last says that the element
// ends there.
func forwardedPair(s string) (name, value, rest string, last bool) {
	i := strings.IndexAny(s, "=;,")
	if i < 0 || s[i] != '=' { // a name alone: not a pair
		if i < 0 {
			return "", "", "", true
		}
		return "", "", s[i+1:], s[i] == ','
	}
	name, s = strings.Trim(s[:i], " \t"), s[i+1:]
	if strings.HasPrefix(s, `"`) {
		end := strings.IndexByte(s[1:], '"')
		if end < 0 {
			return "", "", "", true
		}
		value, s = s[1:1+end], s[end+2:]
		if strings.Contains(value, `\`) { // no address and no host name needs one
			value = ""
		}
		if i = strings.IndexAny(s, ";,"); i < 0 {
			return name, value, "", true
		}
		return name, value, s[i+1:], s[i] == ','
	}
	if i = strings.IndexAny(s, ";,"); i < 0 {
		return name, strings.Trim(s, " \t"), "", true
	}
	return name, strings.Trim(s[:i], " \t"), s[i+1:], s[i] == ','
}

// token reports whether s needs no quotes (RFC 9110, section 5.6.2).
func token(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			continue
		}
		if strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

// NewTraceparent returns a traceparent of fresh, random ids that are not
// sampled: it correlates log lines, one value for each connection.
func NewTraceparent() string {
	var id [24]byte
	_, _ = rand.Read(id[:]) // never fails
	var b [55]byte
	copy(b[:], "00-")
	hex.Encode(b[3:], id[:16])
	b[35] = '-'
	hex.Encode(b[36:], id[16:])
	copy(b[52:], "-00")
	return string(b[:])
}

// ValidTraceparent reports whether s has the form of a traceparent of version
// 00 with ids that are not zero (W3C Trace Context, section 3.2).
func ValidTraceparent(s string) bool {
	if len(s) != 55 || s[:3] != "00-" || s[35] != '-' || s[52] != '-' {
		return false
	}
	for _, part := range [...]string{s[3:35], s[36:52], s[53:55]} {
		if strings.Trim(part, "0123456789abcdef") != "" {
			return false
		}
	}
	return strings.Trim(s[3:35], "0") != "" && strings.Trim(s[36:52], "0") != ""
}
