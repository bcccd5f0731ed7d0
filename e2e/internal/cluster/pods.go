//go:build linux

package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A Pod is one that runs.
type Pod struct {
	Namespace, Name, Node string
	IP, IP6               netip.Addr

	netns string // a file of its network namespace, as we see it
}

// Pods returns the pods of a namespace that are Ready and have a label, "app=echo", and can
// be dialled from.
func (c *Cluster) Pods(ctx context.Context, namespace, label string) ([]Pod, error) {
	found, err := c.PodsReady(ctx, namespace, label)
	if err != nil {
		return nil, err
	}
	for i := range found {
		if found[i].netns, err = c.netns(found[i]); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// PodsReady returns the same, as the API server knows them.
func (c *Cluster) PodsReady(ctx context.Context, namespace, label string) ([]Pod, error) {
	var list struct {
		Items []struct {
			Metadata struct {
				Name              string
				DeletionTimestamp string
			}
			Spec   struct{ NodeName string }
			Status struct {
				PodIP      string
				PodIPs     []struct{ IP string }
				Conditions []struct{ Type, Status string }
			}
		}
	}
	if err := c.Get(ctx, "/api/v1/namespaces/"+namespace+"/pods?labelSelector="+label, &list); err != nil {
		return nil, err
	}
	var found []Pod
	for _, i := range list.Items {
		ready := false
		for _, condition := range i.Status.Conditions {
			ready = ready || condition.Type == "Ready" && condition.Status == "True"
		}
		if !ready || i.Metadata.DeletionTimestamp != "" {
			continue
		}
		ip, err := netip.ParseAddr(i.Status.PodIP)
		if err != nil {
			return nil, fmt.Errorf("pod %s/%s: %w", namespace, i.Metadata.Name, err)
		}
		p := Pod{Namespace: namespace, Name: i.Metadata.Name, Node: i.Spec.NodeName, IP: ip}
		for _, other := range i.Status.PodIPs {
			if a, err := netip.ParseAddr(other.IP); err == nil && a.Is6() {
				p.IP6 = a
			}
		}
		found = append(found, p)
	}
	return found, nil
}

// netns finds the network namespace of a pod among those of its node: it has the address.
func (c *Cluster) netns(p Pod) (string, error) {
	outer := c.process(p.Node)
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", outer, outer))
	if err != nil {
		return "", err
	}
	inner, _, _ := strings.Cut(string(children), " ")
	names, err := filepath.Glob("/proc/" + inner + "/root/run/netns/*")
	if err != nil {
		return "", err
	}
	for _, name := range names {
		has := false
		err := within(name, func() error {
			addresses, err := net.InterfaceAddrs()
			for _, a := range addresses {
				prefix, _ := netip.ParsePrefix(a.String())
				has = has || prefix.Addr() == p.IP
			}
			return err
		})
		if err == nil && has { // another may go away meanwhile
			return name, nil
		}
	}
	return "", fmt.Errorf("pod %s/%s: no network namespace of node %s has %s", p.Namespace, p.Name, p.Node, p.IP)
}

// Dial connects from within a pod, as its programs do, to an address: not to a name.
func (p Pod) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	e := within(p.netns, func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, e
}

// fresh counts the ports of DialFresh, which begins anywhere: another run may have been
// just before.
var (
	start = rand.Uint32N(1 << 16)
	fresh atomic.Uint32
)

// DialFresh is Dial from a port that nothing has used lately: none of those that the kernel
// takes. Where a port is still known from a connection to somewhere else, redirection,
// which is to one address, gives the connection another, and whoever it goes to sees that.
func (p Pod) DialFresh(ctx context.Context, address string) (conn net.Conn, err error) {
	const first, ports = 20000, 12000
	d := net.Dialer{LocalAddr: &net.TCPAddr{Port: first + int((start+fresh.Add(1))%ports)}}
	e := within(p.netns, func() error {
		conn, err = d.DialContext(ctx, "tcp", address)
		return err
	})
	return conn, e
}

// WithinNode calls f on a thread in the network namespace of a node.
func (c *Cluster) WithinNode(node string, f func() error) error {
	return within("/run/netns/"+namespace(node), f)
}

// Listen listens within a pod.
func (p Pod) Listen(address string) (ln net.Listener, err error) {
	e := within(p.netns, func() error {
		ln, err = net.Listen("tcp", address)
		return err
	})
	return ln, e
}

// within calls f on a thread in a network namespace. A socket stays in the one that it
// was made in.
func within(file string, f func() error) error {
	errs := make(chan error)
	go func() {
		runtime.LockOSThread() // and not unlocked: the thread ends with us
		fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			errs <- err
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			errs <- fmt.Errorf("%s: %w", file, err)
			return
		}
		errs <- f()
	}()
	return <-errs
}

// Command returns a command of this machine that runs in a pod's network namespace.
func (p Pod) Command(ctx context.Context, command ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + p.netns}, command...)...)
}
