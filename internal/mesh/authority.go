package mesh

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// An Authority is the target of a CONNECT: an address or a host name, and a
// port. The port is the service's when the address is.
type Authority struct {
	Host string     // set for a name; then IP is not valid
	IP   netip.Addr // unmapped
	Port uint16
}

// ParseAuthority reads the :authority of a CONNECT: host ":" port, with an IPv6
// address in brackets (RFC 9110, section 9.3.6; RFC 3986, section 3.2).
func ParseAuthority(s string) (Authority, error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return Authority{}, fmt.Errorf("authority %q: no port", s)
	}
	port, err := strconv.ParseUint(s[i+1:], 10, 16)
	if err != nil || port == 0 || s[i+1] == '+' {
		return Authority{}, fmt.Errorf("authority %q: port %q is not 1 to 65535", s, s[i+1:])
	}
	a := Authority{Port: uint16(port)}
	host := s[:i]
	if in, ok := strings.CutPrefix(host, "["); ok {
		in, ok = strings.CutSuffix(in, "]")
		ip, err := netip.ParseAddr(in)
		if !ok || err != nil || !ip.Is6() || ip.Zone() != "" {
			return Authority{}, fmt.Errorf("authority %q: %q is not an IPv6 address in brackets", s, host)
		}
		a.IP = ip.Unmap()
		return a, nil
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Is6() {
			return Authority{}, fmt.Errorf("authority %q: an IPv6 address needs brackets", s)
		}
		a.IP = ip
		return a, nil
	}
	if !validHost(host) {
		return Authority{}, fmt.Errorf("authority %q: %q is neither an address nor a host name", s, host)
	}
	a.Host = strings.ToLower(strings.TrimSuffix(host, "."))
	return a, nil
}

// validHost reports whether s could be a DNS name (RFC 1123, section 2.1, and
// underscores, which Kubernetes' SRV names use).
func validHost(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return false
	}
	label := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '.':
			if label == 0 || s[i-1] == '-' {
				return false
			}
			label = 0
			continue
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
		case c == '-' && label > 0:
		default:
			return false
		}
		if label++; label > 63 {
			return false
		}
	}
	return label > 0 && s[len(s)-1] != '-'
}

// AddrPort returns the address and port of an Authority that has an address.
func (a Authority) AddrPort() netip.AddrPort { return netip.AddrPortFrom(a.IP, a.Port) }

func (a Authority) String() string {
	if a.IP.IsValid() {
		return a.AddrPort().String()
	}
	return a.Host + ":" + strconv.Itoa(int(a.Port))
}
