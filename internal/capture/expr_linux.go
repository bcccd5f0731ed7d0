package capture

import (
	"net"
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A side of a packet.
type side int

const (
	source side = iota
	destination
)

func compare(op expr.CmpOp, data []byte) expr.Any {
	return &expr.Cmp{Op: op, Register: 1, Data: data}
}

func native(n uint32) []byte { return binaryutil.NativeEndian.PutUint32(n) }

// masked ands register 1 with mask, and ors or.
func masked(mask, or uint32) expr.Any {
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(mask), Xor: native(or)}
}

func markIs(mark uint32) []expr.Any    { return compareMark(expr.CmpOpEq, mark) }
func markIsNot(mark uint32) []expr.Any { return compareMark(expr.CmpOpNeq, mark) }

func compareMark(op expr.CmpOp, mark uint32) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, masked(MarkMask, 0), compare(op, native(mark))}
}

func connMarkIs(mark uint32) []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, masked(MarkMask, 0), compare(expr.CmpOpEq, native(mark))}
}

// setConnMark keeps the bits that are not ours.
func setConnMark() []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, masked(^uint32(MarkMask), ConnMark), &expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true}}
}

func restoreMark() []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, &expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true}}
}

func setZone(zone uint16) []expr.Any {
	return []expr.Any{&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint16(zone)}, &expr.Ct{Key: expr.CtKeyZONE, Register: 1, SourceRegister: true}}
}

func familyIs(family byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, compare(expr.CmpOpEq, []byte{family})}
}

func protoIs(proto byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, compare(expr.CmpOpEq, []byte{proto})}
}

// portIs comes after protoIs: UDP and TCP have the ports in the same places.
func portIs(s side, port uint16) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2 * uint32(s), Len: 2}, compare(expr.CmpOpEq, binaryutil.BigEndian.PutUint16(port))}
}

func interfaceIs(key expr.MetaKey, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, compare(expr.CmpOpEq, padded)}
}

func addrIs(s side, a netip.Addr) []expr.Any {
	return append(loadAddr(s, a), compare(expr.CmpOpEq, a.AsSlice()))
}

// prefixIs asks about the destination.
func prefixIs(p netip.Prefix) []expr.Any {
	a, n := p.Addr(), p.Addr().BitLen()/8
	if p.Bits() == 0 {
		return loadAddr(destination, a)[:2]
	}
	return append(loadAddr(destination, a),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(n), Mask: net.CIDRMask(p.Bits(), n*8), Xor: make([]byte, n)},
		compare(expr.CmpOpEq, a.AsSlice()))
}

// loadAddr asks for a packet of a's family, and loads an address of it.
func loadAddr(s side, a netip.Addr) []expr.Any {
	if a.Is4() {
		return append(familyIs(unix.NFPROTO_IPV4), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12 + 4*uint32(s), Len: 4})
	}
	return append(familyIs(unix.NFPROTO_IPV6), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 8 + 16*uint32(s), Len: 16})
}

func accept() []expr.Any { return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}} }

// redirect says what the kernel would add, so that a rule is read as it was
// written.
func redirect(port uint16) []expr.Any {
	return []expr.Any{&expr.Counter{},
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Redir{RegisterProtoMin: 1, RegisterProtoMax: 1, Flags: unix.NF_NAT_RANGE_PROTO_SPECIFIED}}
}

// hasSocket matches what a process of this namespace sends, and nothing that is
// forwarded: without a socket there is no user to load, and the rule ends. It
// is what iptables calls owner --socket-exists.
func hasSocket() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeySKUID, Register: 1}, compare(expr.CmpOpGte, native(0))}
}

func sourceNAT(family byte, a netip.Addr) []expr.Any {
	return []expr.Any{&expr.Counter{},
		&expr.Immediate{Register: 1, Data: a.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(family), RegAddrMin: 1, RegAddrMax: 1}}
}
