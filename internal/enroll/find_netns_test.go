//go:build netns && linux

package enroll

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/waystone-mesh/waystone/internal/capture"
	"github.com/waystone-mesh/waystone/internal/netns"
)

// namespaces makes a directory with a network namespace under each name, which
// has the address.
func namespaces(t *testing.T, addrs map[string]string) (dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root, who alone may make network namespaces")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs ip")
	}
	dir = t.TempDir()
	for name, addr := range addrs {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
		setup := "ip link add eth0 type veth peer name other && ip addr add " + addr + "/32 dev eth0"
		if b, err := exec.Command("unshare", "--net="+path, "sh", "-c", setup).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
	}
	return dir
}

func at(uid, addr string) Pod {
	return Pod{UID: uid, Addresses: []netip.Addr{netip.MustParseAddr(addr)}}
}

const (
	uidA = "aaaaaaaa-0000-4000-8000-000000000001"
	uidB = "bbbbbbbb-0000-4000-8000-000000000002"
)

func TestFindByAddress(t *testing.T) {
	dir := namespaces(t, map[string]string{"a": "10.79.0.1", "b": "10.79.0.2", "c1": "10.79.0.3", "c2": "10.79.0.3"})
	if err := os.WriteFile(filepath.Join(dir, "none"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f := Finder{Dir: dir}
	found := f.Find([]Pod{at("a", "10.79.0.1"), at("b", "10.79.0.2"), at("c", "10.79.0.3"), at("d", "10.79.0.4")})
	for uid, want := range map[string]string{"a": "/a", "b": "/b"} {
		if p := found[uid]; p.Err != nil || p.Path != dir+want {
			t.Errorf("%s is at %+v", uid, p)
		}
		ns, err := open(found[uid])
		if err != nil {
			t.Errorf("%s: %v", uid, err)
		}
		ns.Close()
	}
	if err := found["c"].Err; err == nil || !strings.Contains(err.Error(), "both have the address 10.79.0.3") {
		t.Errorf("of two namespaces that have its address: %+v", found["c"])
	}
	if err := found["d"].Err; err == nil || !strings.Contains(err.Error(), "no network namespace under "+dir+" has the address 10.79.0.4") {
		t.Errorf("of none: %+v", found["d"])
	}
	if n := len(f.All()); n != 4 {
		t.Errorf("there are %d namespaces, want 4", n)
	}
	if err := unix.Unmount(filepath.Join(dir, "a"), unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if _, err := open(found["a"]); err == nil {
		t.Error("a namespace that is gone was opened")
	}
}

// process has a process in a /proc.
func process(t *testing.T, proc, pid, cgroup, ns string) {
	t.Helper()
	dir := filepath.Join(proc, pid, "ns")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(proc, pid, "cgroup"), []byte(cgroup+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(ns, filepath.Join(dir, "net")); err != nil {
		t.Fatal(err)
	}
}

func TestFindByProcess(t *testing.T) {
	hidden := namespaces(t, map[string]string{"a": "10.79.0.1", "b": "10.79.0.2", "host": "10.79.0.9"})
	shown := namespaces(t, map[string]string{"b": "10.79.0.2", "b-of-another": "10.79.0.2"})
	proc := t.TempDir()
	process(t, proc, "1", "0::/init.scope", hidden+"/host")
	process(t, proc, "10", "0::/kubepods/pod"+uidA+"/0123", hidden+"/b") // of the pod, but elsewhere
	process(t, proc, "11", "0::/kubepods/pod"+uidA+"/0123", hidden+"/a")
	process(t, proc, "12", "0::/kubepods.slice/kubepods-pod"+strings.ReplaceAll(uidB, "-", "_")+".slice/cri-0123.scope", shown+"/b")
	process(t, proc, "self", "0::/", hidden+"/host")
	f := Finder{Dir: shown, Proc: proc}
	found := f.Find([]Pod{at(uidA, "10.79.0.1"), at(uidB, "10.79.0.2"), at("host", "10.79.0.9")})
	for uid, want := range map[string]string{uidA: proc + "/11/ns/net", uidB: proc + "/12/ns/net"} {
		if p := found[uid]; p.Err != nil || p.Path != want {
			t.Errorf("%s is at %+v, want %s", uid, p, want)
		}
	}
	if found["host"].Err == nil {
		t.Error("the node's own namespace is a pod's")
	}
}

func TestUndo(t *testing.T) {
	dir := namespaces(t, map[string]string{"a": "10.79.0.1", "b": "10.79.0.2", "c": "10.79.0.3"})
	for _, name := range []string{"a", "b"} {
		ns, err := netns.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		if err := ns.Do(func() error { return exec.Command("ip", "link", "set", "lo", "up").Run() }); err != nil {
			t.Fatal(err)
		}
		if err := capture.Apply(ns, capture.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{2, 0} {
		if n, err := Undo(Finder{Dir: dir}); n != want || err != nil {
			t.Errorf("Undo: %d, %v, want %d", n, err, want)
		}
	}
}
