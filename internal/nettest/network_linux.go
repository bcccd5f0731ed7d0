package nettest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/waystone-mesh/waystone/internal/netns"
)

// The gateway of every pod, in both families: its node, on the other end of its
// link.
var (
	gateway4 = netip.MustParseAddr("169.254.1.1")
	gateway6 = netip.MustParseAddr("fe80::1")
)

// A network is two nodes, linked to each other, and pods, each linked to its
// node.
//
//	pod ── node-a ── node-b ── pod
type network struct {
	nodes map[string]*space
	pods  map[netip.Addr]*space
	links int
}

// nodeNames are meshtest's.
var nodeNames = []string{"node-a", "node-b"}

func newNetwork() (_ *network, err error) {
	n := &network{nodes: map[string]*space{}, pods: map[netip.Addr]*space{}}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	for _, name := range nodeNames {
		if n.nodes[name], err = newSpace(); err != nil {
			return nil, err
		}
		if err = n.nodes[name].forward(); err != nil {
			return nil, err
		}
	}
	if err := n.nodes["node-a"].join("peer", n.nodes["node-b"], "peer"); err != nil {
		return nil, err
	}
	for _, name := range nodeNames {
		four, six := between(name)
		err := n.nodes[name].Do(func() error {
			return up("peer", netip.PrefixFrom(four, 24), netip.PrefixFrom(six, 64))
		})
		if err != nil {
			return nil, err
		}
	}
	for _, name := range nodeNames {
		if err := n.nodes[name].wait("peer"); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// between returns the addresses of a node on the link to the other.
func between(node string) (four, six netip.Addr) {
	last := byte(1)
	if node == "node-b" {
		last = 2
	}
	return netip.AddrFrom4([4]byte{192, 168, 77, last}), netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x77, 15: last})
}

// Addr is the address of the n-th pod, in meshtest's range.
func (n *network) Addr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)})
}

// six is the IPv6 address of the pod that has an IPv4 address.
func six(ip netip.Addr) netip.Addr {
	b := ip.As4()
	return netip.AddrFrom16([16]byte{0xfd, 0, 0x02, 0x44, 14: b[2], 15: b[3]})
}

// place makes a pod's namespace on a node, and routes to it on both.
func (n *network) place(node string, ip netip.Addr) (*space, error) {
	pod, err := newSpace()
	if err != nil {
		return nil, err
	}
	if old := n.pods[ip]; old != nil {
		_ = old.close()
	}
	n.pods[ip] = pod
	n.links++
	name := fmt.Sprintf("pod%d", n.links)
	if err := n.nodes[node].join(name, pod, "eth0"); err != nil {
		return nil, err
	}
	err = pod.Do(func() error {
		if err := up("eth0", single(ip), single(six(ip))); err != nil {
			return err
		}
		return errors.Join(
			route(netip.PrefixFrom(netip.IPv4Unspecified(), 0), "eth0", gateway4),
			route(netip.PrefixFrom(netip.IPv6Unspecified(), 0), "eth0", gateway6))
	})
	if err != nil {
		return nil, err
	}
	for _, other := range nodeNames {
		err := n.nodes[other].Do(func() error {
			if other == node {
				if err := up(name, single(gateway4), netip.PrefixFrom(gateway6, 64)); err != nil {
					return err
				}
				return errors.Join(route(single(ip), name, netip.Addr{}), route(single(six(ip)), name, netip.Addr{}))
			}
			via4, via6 := between(node)
			return errors.Join(route(single(ip), "peer", via4), route(single(six(ip)), "peer", via6))
		})
		if err != nil {
			return nil, err
		}
	}
	if err := errors.Join(pod.wait("eth0"), n.nodes[node].wait(name)); err != nil {
		return nil, err
	}
	return pod, nil
}

// remove lets go of the namespace of an address, which ends when nobody else
// holds it.
func (n *network) remove(ip netip.Addr) error {
	s := n.pods[ip]
	delete(n.pods, ip)
	return s.close()
}

// pod returns the namespace of an address. One that has none yet stands on
// node-b: it is a waypoint.
func (n *network) pod(ip netip.Addr) (*space, error) {
	if s := n.pods[ip]; s != nil {
		return s, nil
	}
	return n.place("node-b", ip)
}

// Listen listens in the pod that has the address, as its application.
func (n *network) Listen(a netip.AddrPort) (net.Listener, error) {
	s, err := n.pod(a.Addr())
	if err != nil {
		return nil, err
	}
	return s.Listen(a, netns.SocketOptions{})
}

// Dial connects from the pod that has the address src, as its application.
func (n *network) Dial(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
	s, err := n.pod(src)
	if err != nil {
		return nil, err
	}
	return s.Dial(ctx, netip.AddrPort{}, dst, netns.SocketOptions{})
}

// Close ends the namespaces, as far as nobody else holds them.
func (n *network) Close() {
	for _, s := range n.pods {
		_ = s.close()
	}
	for _, s := range n.nodes {
		if s != nil {
			_ = s.close()
		}
	}
}
