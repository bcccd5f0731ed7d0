//go:build netns && linux

package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waystone-mesh/waystone/internal/netns"
)

// A world is three namespaces: a client, a node that forwards, and a pod.
//
//	client ── node ── pod
type world struct {
	t                 testing.TB
	client, node, pod *netns.Netns
}

// Addresses by family.
var (
	podIP     = map[string]netip.Addr{"IPv4": netip.MustParseAddr("10.201.0.2"), "IPv6": netip.MustParseAddr("fd00:201::2")}
	podGate   = map[string]netip.Addr{"IPv4": netip.MustParseAddr("10.201.0.1"), "IPv6": netip.MustParseAddr("fd00:201::1")}
	clientIP  = map[string]netip.Addr{"IPv4": netip.MustParseAddr("10.202.0.2"), "IPv6": netip.MustParseAddr("fd00:202::2")}
	probeIP   = map[string]netip.Addr{"IPv4": ProbeIPv4, "IPv6": ProbeIPv6}
	loopback  = map[string]netip.Addr{"IPv4": loopback4, "IPv6": loopback6}
	elsewhere = map[string]netip.Addr{"IPv4": netip.MustParseAddr("192.0.2.7"), "IPv6": netip.MustParseAddr("2001:db8::7")}
)

func eachFamily(t *testing.T, f func(t *testing.T, fam string)) {
	for _, fam := range []string{"IPv4", "IPv6"} {
		t.Run(fam, func(t *testing.T) { f(t, fam) })
	}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make network namespaces")
	}
	w := &world{t: t, client: newNetns(t), node: newNetns(t), pod: newNetns(t)}
	w.link("pod", w.pod, "10.201.0.1/24", "10.201.0.2/24", "fd00:201::1/64", "fd00:201::2/64")
	w.link("client", w.client, "10.202.0.1/24", "10.202.0.2/24", "fd00:202::1/64", "fd00:202::2/64")
	w.must(w.node.Do(func() error {
		return errors.Join(
			os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
			os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
	}))
	return w
}

func newNetns(t *testing.T) *netns.Netns {
	t.Helper()
	type made struct {
		ns  *netns.Netns
		err error
	}
	done := make(chan made)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- made{nil, err}
			return
		}
		ns, err := netns.Open("/proc/thread-self/ns/net")
		done <- made{ns, err}
	}()
	m := <-done
	if m.err != nil {
		t.Fatalf("new network namespace: %v", m.err)
	}
	t.Cleanup(func() { m.ns.Close() })
	if err := m.ns.Do(func() error { return up("lo") }); err != nil {
		t.Fatal(err)
	}
	return m.ns
}

func up(name string, addrs ...string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, s := range addrs {
		a, err := netlink.ParseAddr(s)
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(l, a); err != nil {
			return fmt.Errorf("%s %s: %w", name, s, err)
		}
	}
	return netlink.LinkSetUp(l)
}

// link joins the node and ns by interface name at the node, eth0 in ns.
func (w *world) link(name string, ns *netns.Netns, node4, ns4, node6, ns6 string) {
	w.t.Helper()
	w.must(ns.Do(func() error {
		file, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		defer file.Close()
		return w.node.Do(func() error {
			return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(file.Fd()))})
		})
	}))
	w.must(w.node.Do(func() error { return up(name, node4, node6) }))
	w.must(ns.Do(func() error {
		if err := up("eth0", ns4, ns6); err != nil {
			return err
		}
		for _, s := range []string{node4, node6} {
			gate, _, err := net.ParseCIDR(s)
			if err != nil {
				return err
			}
			every := &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
			if gate.To4() != nil {
				every = &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
			}
			if err := netlink.RouteAdd(&netlink.Route{Dst: every, Gw: gate}); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

var tunnelSocket = netns.SocketOptions{Mark: Mark, Transparent: true}

// serve answers every connection to addr with one line.
func (w *world) serve(ns *netns.Netns, addr string, o netns.SocketOptions, answer func(c *net.TCPConn) string) {
	w.t.Helper()
	ln, err := ns.Listen(netip.MustParseAddrPort(addr), o)
	w.must(err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, answer(c.(*net.TCPConn)))
			c.Close()
		}
	}()
	w.t.Cleanup(func() { ln.Close(); <-done })
}

func addrOf(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// app is a listener of the pod's, or of anyone's.
func (w *world) app(ns *netns.Netns, addr string) {
	w.t.Helper()
	w.serve(ns, addr, netns.SocketOptions{}, func(c *net.TCPConn) string {
		return fmt.Sprintf("app from %v", addrOf(c.RemoteAddr()).Addr())
	})
}

// tunnel stands for the node tunnel: it says where a connection was going, and
// what came in it takes to the pod in the client's name.
func (w *world) tunnel() {
	w.t.Helper()
	w.serve(w.pod, "[::]:15001", tunnelSocket, func(c *net.TCPConn) string {
		to, err := netns.OriginalDestination(c)
		return fmt.Sprintf("outbound to %v %v", to, err)
	})
	w.serve(w.pod, "[::]:15006", tunnelSocket, func(c *net.TCPConn) string {
		to, err := netns.OriginalDestination(c)
		if err != nil || to.Port() == InboundPort {
			return fmt.Sprintf("inbound to %v %v", to, err)
		}
		from := netip.AddrPortFrom(addrOf(c.RemoteAddr()).Addr(), 0)
		return "inbound, " + w.ask(w.pod, from, to, tunnelSocket)
	})
	w.serve(w.pod, "[::]:15008", tunnelSocket, func(*net.TCPConn) string { return "HBONE" })
	for _, a := range loopback {
		ap := netip.AddrPortFrom(a, DNSPort)
		w.serve(w.pod, ap.String(), tunnelSocket, func(*net.TCPConn) string { return "DNS" })
		w.serveUDP(w.pod, ap, netns.SocketOptions{Mark: Mark}, "DNS")
	}
}

// serveUDP answers every datagram with answer.
func (w *world) serveUDP(ns *netns.Netns, addr netip.AddrPort, o netns.SocketOptions, answer string) {
	w.t.Helper()
	pc, err := ns.ListenPacket(addr, o)
	w.must(err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 64)
		for {
			_, from, err := pc.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			pc.WriteToUDPAddrPort([]byte(answer), from)
		}
	}()
	w.t.Cleanup(func() { pc.Close(); <-done })
}

// patience is for what must come. What must not come is refused at once.
const patience = 5 * time.Second

// ask connects and returns what is said, or the error.
func (w *world) ask(ns *netns.Netns, from, to netip.AddrPort, o netns.SocketOptions) string {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := ns.Dial(ctx, from, to, o)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(c)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func (w *world) get(ns *netns.Netns, to netip.Addr, port uint16) string {
	return w.ask(ns, netip.AddrPort{}, netip.AddrPortFrom(to, port), netns.SocketOptions{})
}

func (w *world) query(ns *netns.Netns, to netip.Addr, port uint16) string {
	local := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	if to.Is6() {
		local = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
	}
	c, err := ns.ListenPacket(local, netns.SocketOptions{})
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.WriteToUDPAddrPort([]byte("?"), netip.AddrPortFrom(to, port)); err != nil {
		return err.Error()
	}
	b := make([]byte, 64)
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return err.Error()
	}
	if from.Addr().Unmap() != to || from.Port() != port {
		return fmt.Sprintf("answer from %v", from)
	}
	return string(b[:n])
}

// state is what the kernel has in ns, as nft and ip print it.
func state(t testing.TB, ns *netns.Netns, args ...string) string {
	t.Helper()
	var all []byte
	for _, cmd := range [][]string{
		append(append([]string{"nft", "-s"}, args...), "list", "ruleset"),
		{"ip", "rule"}, {"ip", "-6", "rule"},
		{"ip", "route", "show", "table", "all"}, {"ip", "-6", "route", "show", "table", "all"},
	} {
		err := ns.Do(func() error {
			b, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput()
			all = append(all, b...)
			if err != nil {
				return fmt.Errorf("%v: %w: %s", cmd, err, b)
			}
			return nil
		})
		if errors.Is(err, exec.ErrNotFound) {
			t.Skipf("needs nft and ip to look at what was programmed: %v", err)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// The kernel adds what is link-local in its own time.
	lines := slices.DeleteFunc(strings.Split(string(all), "\n"), func(l string) bool { return strings.Contains(l, "fe80:") || strings.HasPrefix(l, "multicast ff00:") })
	return strings.Join(lines, "\n")
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// sameState reports the lines that came and went.
func sameState(t *testing.T, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	count := map[string]int{}
	for l := range strings.Lines(got) {
		count[l]++
	}
	for l := range strings.Lines(want) {
		count[l]--
	}
	for l, n := range count {
		if n != 0 {
			t.Errorf("%s: %+d of %q", what, n, l)
		}
	}
}
