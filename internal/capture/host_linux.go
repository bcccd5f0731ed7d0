package capture

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waystone-mesh/waystone/internal/netns"
)

// HostTable is the name of the nftables table, of family inet, on the node.
const HostTable = "waystone-probes"

// A Host lets the kubelet's probes into captured pods: in the node's namespace
// it gives connections that the node itself makes to a pod the source address
// ProbeIPv4 or ProbeIPv6, which the pod's rules let pass. What the node only
// forwards, such as kube-proxy's traffic, keeps its source and is captured.
//
// Its methods are safe for concurrent use.
type Host struct {
	ns *netns.Netns // not ours to close; nil: the current one

	mu   sync.Mutex
	pods map[netip.Addr]bool // Guarded by mu.
}

// OpenHost programs the node's rules. Addresses that an earlier Host left there
// are kept until Set.
func OpenHost(ns *netns.Netns) (*Host, error) {
	h := &Host{ns: ns, pods: map[netip.Addr]bool{}}
	return h, in(ns, func(c *nftables.Conn, _ *netlink.Handle, _ netlink.Link) error {
		if hostTable.verify(c) == nil {
			return nil
		}
		if err := hostTable.replace(c); err != nil {
			return err
		}
		return hostTable.verify(c)
	})
}

// RemoveHost takes the node's rules back. None being there is no error.
func RemoveHost(ns *netns.Netns) error {
	return in(ns, func(c *nftables.Conn, _ *netlink.Handle, _ netlink.Link) error { return hostTable.remove(c) })
}

// Set makes addrs the addresses of all captured pods. It puts back rules that
// somebody took away, as does Add.
func (h *Host) Set(addrs []netip.Addr) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.pods)
	return h.addLocked(addrs, true)
}

// Add adds addresses of a captured pod. Those that are there already stay.
func (h *Host) Add(addrs ...netip.Addr) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.addLocked(addrs, false)
}

func (h *Host) addLocked(addrs []netip.Addr, only bool) error {
	for _, a := range addrs {
		h.pods[a.Unmap()] = true
	}
	return in(h.ns, func(c *nftables.Conn, _ *netlink.Handle, _ netlink.Link) error {
		if hostTable.verify(c) != nil {
			if err := hostTable.replace(c); err != nil {
				return err
			}
			addrs = slices.Collect(maps.Keys(h.pods))
		}
		if only {
			c.FlushSet(podsV4)
			c.FlushSet(podsV6)
		}
		for _, a := range addrs {
			set, el := element(a)
			if err := c.SetAddElements(set, []nftables.SetElement{el}); err != nil {
				return err
			}
		}
		if err := c.Flush(); err != nil {
			return fmt.Errorf("table inet %s: adding pods: %w", HostTable, err)
		}
		return h.verifyLocked(c)
	})
}

// Remove removes addresses. Those that are not there are no error.
func (h *Host) Remove(addrs ...netip.Addr) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range addrs {
		delete(h.pods, a.Unmap())
	}
	return in(h.ns, func(c *nftables.Conn, _ *netlink.Handle, _ netlink.Link) error {
		var errs []error
		for _, a := range addrs {
			set, el := element(a)
			errs = append(errs, c.SetDeleteElements(set, []nftables.SetElement{el}))
			if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("removing %v from set %s: %w", a, set.Name, err))
			}
		}
		return errors.Join(errs...)
	})
}

// Verify reports the first thing on the node that is not as it should be.
func (h *Host) Verify() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return in(h.ns, func(c *nftables.Conn, _ *netlink.Handle, _ netlink.Link) error { return h.verifyLocked(c) })
}

func (h *Host) verifyLocked(c *nftables.Conn) error {
	if err := hostTable.verify(c); err != nil {
		return err
	}
	got := map[netip.Addr]bool{}
	for _, s := range hostTable.sets {
		els, err := c.GetSetElements(s)
		if err != nil {
			return fmt.Errorf("table inet %s, set %s: %w", HostTable, s.Name, err)
		}
		for _, el := range els {
			a, _ := netip.AddrFromSlice(el.Key)
			got[a] = true
		}
	}
	for a := range h.pods {
		if !got[a] {
			return fmt.Errorf("table inet %s: pod %v missing", HostTable, a)
		}
	}
	return nil
}

func element(a netip.Addr) (*nftables.Set, nftables.SetElement) {
	a = a.Unmap()
	if a.Is4() {
		return podsV4, nftables.SetElement{Key: a.AsSlice()}
	}
	return podsV6, nftables.SetElement{Key: a.AsSlice()}
}

var (
	podsV4 = &nftables.Set{Table: table{name: HostTable}.nft(), Name: "pods-v4", KeyType: nftables.TypeIPAddr}
	podsV6 = &nftables.Set{Table: table{name: HostTable}.nft(), Name: "pods-v6", KeyType: nftables.TypeIP6Addr}

	hostTable = table{name: HostTable, chains: hostChains(), sets: []*nftables.Set{podsV4, podsV6}}
)

// hostChains come one before the priority of other source translation, whose
// first word counts: masquerading would hide the probe.
func hostChains() []chain {
	c := chain{name: "nat-postrouting", kind: nftables.ChainTypeNAT, hook: nftables.ChainHookPostrouting, priority: nftables.ChainPriorityRef(*nftables.ChainPriorityNATSource - 1)}
	for _, f := range []struct {
		family byte
		set    string
		source netip.Addr
	}{{unix.NFPROTO_IPV4, podsV4.Name, ProbeIPv4}, {unix.NFPROTO_IPV6, podsV6.Name, ProbeIPv6}} {
		c.add("probes of the kubelet", loadAddr(destination, f.source), []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: f.set}},
			protoIs(unix.IPPROTO_TCP), hasSocket(), sourceNAT(f.family, f.source))
	}
	return []chain{c}
}
