package ztunnel

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/identity"
)

func TestProxyHeader(t *testing.T) {
	id := identity.ID{TrustDomain: "td", Namespace: "ns", ServiceAccount: "sa"}
	const who = "\xd0\x00\x17spiffe://td/ns/ns/sa/sa"
	for _, row := range []struct{ src, dst, want string }{
		{"10.0.0.1:4097", "10.9.0.1:80", "\x21\x11\x00\x26\x0a\x00\x00\x01\x0a\x09\x00\x01\x10\x01\x00\x50"},
		{"[2001:db8::1]:1", "[2001:db8::2]:2", "\x21\x21\x00\x3e\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x01\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x02\x00\x01\x00\x02"},
		{"10.0.0.1:1", "[2001:db8::2]:2", "\x21\x21\x00\x3e" + strings.Repeat("\x00", 10) + "\xff\xff\x0a\x00\x00\x01\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x02\x00\x01\x00\x02"},
	} {
		got := string(appendProxy(nil, netip.MustParseAddrPort(row.src), netip.MustParseAddrPort(row.dst), id))
		if want := "\r\n\r\n\x00\r\nQUIT\n" + row.want + who; got != want {
			t.Errorf("%s to %s:\n got %q\nwant %q", row.src, row.dst, got, want)
		}
	}
}
