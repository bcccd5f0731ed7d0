package enroll

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/waystone-mesh/waystone/internal/netns"
)

// A Finder finds the network namespaces of pods, whatever runs them: by the
// files that container runtimes, and ip netns, keep them under, and by the
// processes in them. A namespace is a pod's only if it has the pod's address.
type Finder struct {
	// Dir holds a file for each namespace, such as /run/netns. In a container, its
	// mount must be propagated (HostToContainer).
	Dir string

	// Proc is the node's /proc; "": no processes are looked at. What is found under
	// Dir needs them only if two namespaces have a pod's address.
	Proc string
}

// Find returns the place of every pod.
func (f Finder) Find(pods []Pod) map[string]Place {
	found := make(map[string]Place, len(pods))
	named := f.named()
	var doubt []Pod
	for _, p := range pods {
		var having []Place
		for _, n := range named {
			if slices.Contains(n.addrs, p.Addresses[0]) {
				having = append(having, n.Place)
			}
		}
		switch len(having) {
		case 1:
			found[p.UID] = having[0]
		case 0:
			found[p.UID] = Place{Err: fmt.Errorf("no network namespace under %s has the address %v", f.Dir, p.Addresses[0])}
			doubt = append(doubt, p)
		default:
			found[p.UID] = Place{Err: fmt.Errorf("%s and %s both have the address %v", having[0].Path, having[1].Path, p.Addresses[0])}
			doubt = append(doubt, p)
		}
	}
	if len(doubt) > 0 && f.Proc != "" {
		f.byProcess(doubt, found)
	}
	return found
}

// All returns every namespace under Dir, but for the node's and our own.
func (f Finder) All() []Place {
	var all []Place
	for _, n := range f.named() {
		all = append(all, n.Place)
	}
	return all
}

// A seen is a namespace and the addresses in it.
type seen struct {
	Place
	addrs []netip.Addr
}

// named looks at the namespaces under Dir. What is no namespace, or no more, is
// passed over.
func (f Finder) named() []seen {
	files, err := os.ReadDir(f.Dir)
	if err != nil {
		return nil
	}
	done := f.notPods()
	var all []seen
	for _, file := range files {
		s, err := look(filepath.Join(f.Dir, file.Name()), done)
		if err == nil {
			done[s.ID] = true
			all = append(all, s)
		}
	}
	return all
}

var errSeen = errors.New("seen already")

// look opens a namespace to see what it is, unless it is one of those that were
// seen.
func look(path string, done map[netns.ID]bool) (seen, error) {
	ns, err := netns.Open(path)
	if err != nil {
		return seen{}, err
	}
	defer ns.Close()
	if done[ns.ID()] {
		return seen{}, errSeen
	}
	s := seen{Place: Place{Path: path, ID: ns.ID()}}
	s.addrs, err = addresses(ns)
	return s, err
}

// addresses are those of the interfaces in a namespace, but for loopback's.
func addresses(ns *netns.Netns) (addrs []netip.Addr, err error) {
	err = ns.Do(func() error {
		all, err := net.InterfaceAddrs()
		for _, a := range all {
			if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLoopback() {
				addrs = append(addrs, p.Addr().Unmap())
			}
		}
		return err
	})
	return addrs, err
}

// notPods are namespaces that no pod of ours can be in: the node's, and our own.
func (f Finder) notPods() map[netns.ID]bool {
	not := map[netns.ID]bool{}
	for _, path := range []string{"/proc/self/ns/net", filepath.Join(f.Proc, "1", "ns", "net")} {
		if ns, err := netns.Open(path); err == nil {
			not[ns.ID()] = true
			ns.Close()
		}
	}
	return not
}

// byProcess looks for processes of pods. The oldest tells: another of the pod's
// may have gone elsewhere.
func (f Finder) byProcess(pods []Pod, found map[string]Place) {
	entries, err := os.ReadDir(f.Proc)
	if err != nil {
		return
	}
	not := f.notPods()
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p := f.podOf(pid, pods)
		if p == nil || found[p.UID].Err == nil {
			continue
		}
		s, err := look(filepath.Join(f.Proc, e.Name(), "ns", "net"), not)
		switch {
		case errors.Is(err, errSeen):
		case err != nil:
			found[p.UID] = Place{Err: fmt.Errorf("process %d of the pod: %w", pid, err)}
		case slices.Contains(s.addrs, p.Addresses[0]):
			found[p.UID] = s.Place
		}
	}
}

// podOf returns the pod whose a process is, by its control groups; nil: none's.
func (f Finder) podOf(pid int, pods []Pod) *Pod {
	b, err := os.ReadFile(filepath.Join(f.Proc, strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		if p := podOfGroup(strings.TrimSpace(line), pods); p != nil {
			return p
		}
	}
	return nil
}

// podOfGroup takes a line of /proc/PID/cgroup. Every runtime has either the
// pod's UID in the path, with dashes or, under systemd, underscores, or the
// container's ID at its end:
//
//	0::/kubepods/burstable/pod2c48913c-b29f-11e7-9350-020968147796/9bca8d63…
//	0::/kubepods.slice/…/kubepods-pod2c48913c_b29f_11e7_9350_020968147796.slice/cri-containerd-9bca8d63….scope
//	0::/../crio-45490e76….scope
func podOfGroup(line string, pods []Pod) *Pod {
	_, path, ok := strings.Cut(line, "/")
	if !ok {
		return nil
	}
	last := strings.TrimSuffix(path[strings.LastIndexByte(path, '/')+1:], ".scope")
	for i := range pods {
		p := &pods[i]
		if p.UID != "" && (names(path, "pod"+p.UID) || names(path, "pod"+strings.ReplaceAll(p.UID, "-", "_"))) {
			return p
		}
		for _, id := range p.Containers {
			if len(id) >= 32 && strings.HasSuffix(last, id) {
				return p
			}
		}
	}
	return nil
}

// names tells whether word is in path, and does not go on after it.
func names(path, word string) bool {
	_, after, ok := strings.Cut(path, word)
	return ok && (after == "" || strings.ContainsRune("/.:", rune(after[0])))
}
