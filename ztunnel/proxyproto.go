package ztunnel

import (
	"encoding/binary"
	"net/netip"

	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// The PROXY protocol, version 2, section 2.2.
const (
	proxySignature = "\r\n\r\n\x00\r\nQUIT\n"
	proxyVersion   = 0x21 // version 2, PROXY
	proxyTCP4      = 0x11
	proxyTCP6      = 0x21
	proxyIdentity  = 0xd0 // Istio's: the client's SPIFFE ID
)

// appendProxy appends the header that tells an application behind an AppTunnel
// who its client is, and what that dialled.
func appendProxy(b []byte, src, dst netip.AddrPort, id identity.ID) []byte {
	who := id.String()
	b = append(b, proxySignature...)
	b = append(b, proxyVersion)
	if src.Addr().Is4() && dst.Addr().Is4() {
		b = append(b, proxyTCP4)
		b = binary.BigEndian.AppendUint16(b, uint16(2*4+2*2+3+len(who)))
		b = append(b, src.Addr().AsSlice()...)
		b = append(b, dst.Addr().AsSlice()...)
	} else {
		from, to := src.Addr().As16(), dst.Addr().As16()
		b = append(b, proxyTCP6)
		b = binary.BigEndian.AppendUint16(b, uint16(2*16+2*2+3+len(who)))
		b = append(append(b, from[:]...), to[:]...)
	}
	b = binary.BigEndian.AppendUint16(b, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = append(b, proxyIdentity)
	b = binary.BigEndian.AppendUint16(b, uint16(len(who)))
	return append(b, who...)
}

// asked is what the client dialled, as an address: that of the CONNECT, or of the
// service that it names, IPv4 before IPv6.
func (i *inbound) asked() netip.AddrPort {
	a := i.in.Authority
	if s := i.rec.Service; !a.IP.IsValid() && s != nil {
		for _, p := range s.Addresses {
			if p.Network == i.worker.options.Network && p.Prefix.IsSingleIP() && (!a.IP.IsValid() || p.Prefix.Addr().Is4() && !a.IP.Is4()) {
				a = mesh.Authority{IP: p.Prefix.Addr(), Port: a.Port}
			}
		}
	}
	if !a.IP.IsValid() {
		return i.input.Dest
	}
	return a.AddrPort()
}
