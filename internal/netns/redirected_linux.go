package netns

import (
	"fmt"
	"net/netip"

	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"
)

var protocols = map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}

// Redirected returns where what a client sends to here, an address of the
// namespace's, was going before it was redirected there: the kernel's connection
// tracking has it, for UDP as well, whose sockets do not tell. network is "tcp" or
// "udp". What is not redirected was going here, or is not tracked: an error. It
// needs CAP_NET_ADMIN.
func (n *Netns) Redirected(network string, client, here netip.AddrPort) (netip.AddrPort, error) {
	client, here = unmap(client), unmap(here)
	var table *conntrack.Conn
	err := n.Do(func() (err error) {
		table, err = conntrack.Dial(nil)
		return err
	})
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("netns: connection tracking: %w", err)
	}
	defer table.Close()
	// A flow is known by the addresses of its answers, too.
	var answers conntrack.Flow
	answers.TupleReply.IP = conntrack.IPTuple{SourceAddress: here.Addr(), DestinationAddress: client.Addr()}
	answers.TupleReply.Proto = conntrack.ProtoTuple{Protocol: protocols[network], SourcePort: here.Port(), DestinationPort: client.Port()}
	flow, err := table.Get(answers)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("netns: connection tracking: %s of %s to %s: %w", network, client, here, err)
	}
	return netip.AddrPortFrom(flow.TupleOrig.IP.DestinationAddress, flow.TupleOrig.Proto.DestinationPort), nil
}
