package capture

import (
	"errors"
	"fmt"
	"net"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waystone-mesh/waystone/internal/netns"
)

// Apply programs o in ns, and reads back what it wrote. If all is there
// already it writes nothing. After an error the namespace has either what it
// had or what o says, except that the routing rule and the route, which do
// nothing alone, may be there.
func Apply(ns *netns.Netns, o Options) error {
	if err := o.Check(); err != nil {
		return err
	}
	return in(ns, func(c *nftables.Conn, h *netlink.Handle, lo netlink.Link) error {
		if verify(c, h, lo, o) == nil {
			return nil
		}
		if lo.Attrs().Flags&net.FlagUp == 0 {
			return errors.New("interface lo is down, through which everything redirected goes: ip link set lo up")
		}
		for _, r := range routes(o.IPv6) {
			if err := r.apply(h, lo); err != nil {
				return err
			}
		}
		if err := o.table().replace(c); err != nil {
			return err
		}
		return verify(c, h, lo, o)
	})
}

// Verify reports the first thing in ns that is not as Apply leaves it, by
// table, chain and rule.
func Verify(ns *netns.Netns, o Options) error {
	return in(ns, func(c *nftables.Conn, h *netlink.Handle, lo netlink.Link) error { return verify(c, h, lo, o) })
}

// Remove takes back what Apply programmed, whatever its options, and makes
// sure that it is gone. Nothing of it being there is no error.
//
// Connections that were redirected stay so until they end.
func Remove(ns *netns.Netns) error {
	return in(ns, func(c *nftables.Conn, h *netlink.Handle, lo netlink.Link) error {
		errs := []error{table{name: Table}.remove(c)}
		for _, r := range routes(true) {
			errs = append(errs, r.remove(h, lo))
		}
		return errors.Join(errs...)
	})
}

func (o Options) table() table { return table{name: Table, chains: o.chains()} }

func verify(c *nftables.Conn, h *netlink.Handle, lo netlink.Link, o Options) error {
	for _, r := range routes(o.IPv6) {
		if err := r.verify(h, lo); err != nil {
			return err
		}
	}
	return o.table().verify(c)
}

// in runs f with netlink sockets of ns, on a thread inside it.
func in(ns *netns.Netns, f func(*nftables.Conn, *netlink.Handle, netlink.Link) error) error {
	err := ns.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("netlink: %w", err)
		}
		defer h.Close()
		lo, err := h.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("interface lo: %w", err)
		}
		c, err := nftables.New(nftables.AsLasting())
		if err != nil {
			return fmt.Errorf("nftables: %w", err)
		}
		defer c.CloseLasting()
		return f(c, h, lo)
	})
	if err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	return nil
}

// There reports whether any rules of ours are in ns, whatever their options.
func There(ns *netns.Netns) (there bool, err error) {
	err = in(ns, func(c *nftables.Conn, _ *netlink.Handle, _ netlink.Link) error {
		there, err = table{name: Table}.there(c)
		return err
	})
	return there, err
}
