package nettest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waystone-mesh/waystone/internal/netns"
)

// A space is a network namespace, and a descriptor of it for whoever wants one.
type space struct {
	*netns.Netns
	file *os.File
}

// newSpace makes a namespace. Its loopback interface is up.
func newSpace() (*space, error) {
	here, err := netns.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer here.Close()
	s := new(space)
	err = here.Do(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		s.file, err = os.Open("/proc/thread-self/ns/net")
		return err // and the thread goes home
	})
	if err != nil {
		return nil, err
	}
	if s.Netns, err = netns.Open(s.path()); err != nil {
		return nil, err
	}
	return s, s.Do(func() error {
		// Else addresses are not used for a second, until nobody else is found to
		// have them.
		for _, name := range []string{"all", "default"} {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/accept_dad", []byte("0"), 0); err != nil {
				return err
			}
		}
		return up("lo")
	})
}

func (s *space) path() string { return fmt.Sprintf("/proc/self/fd/%d", s.file.Fd()) }

func (s *space) close() error { return errors.Join(s.Netns.Close(), s.file.Close()) }

// forward makes a router of the namespace.
func (s *space) forward() error {
	return s.Do(func() error {
		var errs []error
		for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			errs = append(errs, os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0))
		}
		for _, name := range []string{"ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter"} {
			errs = append(errs, os.WriteFile("/proc/sys/net/"+name, []byte("0"), 0))
		}
		return errors.Join(errs...)
	})
}

// join makes a veth pair of an interface here and one in another namespace.
func (s *space) join(name string, other *space, otherName string) error {
	return s.Do(func() error {
		a := netlink.NewLinkAttrs()
		a.Name = name
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: otherName, PeerNamespace: netlink.NsFd(other.file.Fd())})
	})
}

// linkTime is how long the kernel may take to find that a link is up, of which
// packets are lost until then.
const linkTime = 5 * time.Second

// wait returns when the interface of a veth pair is up.
func (s *space) wait(name string) error {
	return s.Do(func() error {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for end := time.Now().Add(linkTime); ; <-tick.C {
			l, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if l.Attrs().OperState == netlink.OperUp {
				return nil
			}
			if time.Now().After(end) {
				return fmt.Errorf("interface %s is %v", name, l.Attrs().OperState)
			}
		}
	})
}

// up raises an interface of the current namespace, with addresses.
func up(name string, addrs ...netip.Prefix) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, p := range addrs {
		a := &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrAdd(l, a); err != nil {
			return fmt.Errorf("address %v of %s: %w", p, name, err)
		}
	}
	return netlink.LinkSetUp(l)
}

// route leads p to an interface of the current namespace, by a gateway if there
// is one.
func route(p netip.Prefix, name string, gateway netip.Addr) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(p), Scope: netlink.SCOPE_LINK}
	if gateway.IsValid() {
		r.Gw, r.Scope, r.Flags = gateway.AsSlice(), netlink.SCOPE_UNIVERSE, int(netlink.FLAG_ONLINK)
	}
	if err := netlink.RouteReplace(r); err != nil {
		return fmt.Errorf("route of %v to %s: %w", p, name, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
