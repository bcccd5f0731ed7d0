//go:build linux

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// controllers are those of cgroup v1 that a node mounts anew.
var controllers = []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"}

const cgroups = "/sys/fs/cgroup"

// startNodes starts the nodes. Each begins with the images that are linked into its
// directory of images.
func (c *Cluster) startNodes(images []string) error {
	if _, err := os.Stat(filepath.Join(cgroups, "memory", "cgroup.procs")); err != nil {
		return fmt.Errorf("no cgroup v1 of memory on this machine, and pure cgroup v2 is not written yet: %w", err)
	}
	for i, image := range images {
		if err := os.Symlink(image, c.path("images", fmt.Sprintf("%02d-%s", i, filepath.Base(image)))); err != nil {
			return err
		}
	}
	for _, n := range Nodes {
		if err := makeCgroups(n); err != nil {
			return err
		}
		// The command is this package's, in e2e/cluster: it calls Enter.
		if err := c.start(n, c.path("bin", "cluster"), "enter", n); err != nil {
			return err
		}
	}
	return nil
}

func makeCgroups(node string) error {
	for _, controller := range append(slices.Clone(controllers), "unified") {
		dir := filepath.Join(cgroups, controller)
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		for _, sub := range []string{prefix, node} {
			parent := dir
			dir = filepath.Join(dir, sub)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			if controller != "cpuset" { // of which a new one has no CPUs and no memory
				continue
			}
			for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
				value, err := os.ReadFile(filepath.Join(parent, f))
				if err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(dir, f), value, 0o644); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// uncgroup removes the cgroups of the nodes, which have no process any more.
func (c *Cluster) uncgroup(ctx context.Context) error {
	all := append(slices.Clone(controllers), "unified")
	return until(ctx, "removal of the cgroups", func() (bool, error) {
		var last error
		for _, controller := range all {
			dir := filepath.Join(cgroups, controller, prefix)
			var dirs []string
			_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			for _, d := range slices.Backward(dirs) {
				if err := os.Remove(d); err != nil && !errors.Is(err, os.ErrNotExist) {
					last = err
				}
			}
		}
		return last == nil, last
	})
}

// Enter becomes process 1 of a node: in its cgroups, its network namespace, and new
// namespaces of the other kinds. It runs Init there. It returns only an error.
func Enter(node string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, controller := range append(slices.Clone(controllers), "unified") {
		f := filepath.Join(cgroups, controller, prefix, node, "cgroup.procs")
		if err := os.WriteFile(f, []byte("0"), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return err
	}
	// ip netns exec would mount /sys anew and lose the cgroups that are mounted in it.
	return syscall.Exec(nsenter, []string{
		"nsenter", "--net=/run/netns/" + namespace(node),
		"unshare", "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--fork", "--kill-child", "--mount-proc", "--propagation", "private",
		self, "init", node,
	}, os.Environ())
}

// Init is process 1 of a node: it mounts what a machine has for itself, starts
// containerd, kubelet and kube-proxy, and collects processes that have ended.
func (c *Cluster) Init(node string) error {
	index := slices.Index(Nodes, node)
	if index < 0 {
		return fmt.Errorf("no node is called %q", node)
	}
	if err := unix.Sethostname([]byte(node)); err != nil {
		return err
	}
	dir := c.path("nodes", node)
	if err := mounts(dir); err != nil {
		return err
	}
	f := nodeFile{
		Name: node, Dir: dir, PKI: c.path("pki"), DNS: dnsVIP, Pods: pods + "," + pods6,
		NodePods: podsOf(index), NodePods6: podsOf6(index), Pause: Pause,
	}
	write := map[string]string{
		"containerd.toml":  filepath.Join(dir, "containerd.toml"),
		"kubelet.yaml":     filepath.Join(dir, "kubelet.yaml"),
		"proxy.yaml":       filepath.Join(dir, "proxy.yaml"),
		"10-pods.conflist": "/etc/cni/net.d/10-pods.conflist",
	}
	for name, to := range write {
		text, err := file(name, f)
		if err != nil {
			return err
		}
		if err := os.WriteFile(to, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte("nameserver 127.0.0.1\n"), 0o644); err != nil {
		return err
	}
	if err := c.background(node, "containerd", "containerd", "-c", filepath.Join(dir, "containerd.toml")); err != nil {
		return err
	}
	if err := imports(c.path("images")); err != nil {
		return err
	}
	if err := c.background(node, "kubelet", c.path("bin", "kubelet"), "--config="+filepath.Join(dir, "kubelet.yaml"),
		"--kubeconfig="+c.path("pki", node+".kubeconfig"), "--hostname-override="+node, "--node-ip="+address(index)+","+address6(index), "-v=2"); err != nil {
		return err
	}
	if err := c.background(node, "proxy", c.path("bin", "kube-proxy"), "--config="+filepath.Join(dir, "proxy.yaml")); err != nil {
		return err
	}
	for { // the shims of containerd leave their processes to us
		var status unix.WaitStatus
		if _, err := unix.Wait4(-1, &status, 0, nil); err != nil && !errors.Is(err, unix.EINTR) {
			time.Sleep(time.Second) // no child at all
		}
	}
}

// background starts a program of a node, with a log.
func (c *Cluster) background(node, name, path string, args ...string) error {
	log, err := os.Create(c.path("log", node+"-"+name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = log, log
	return cmd.Start() // Init collects it
}

// mounts gives a node its own /sys with cgroups, /run, and directories that programs write.
func mounts(dir string) error {
	mount := func(source, target, kind string, flags uintptr, data string) error {
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(source, target, kind, flags, data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", kind, target, err)
		}
		return nil
	}
	if err := mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return err
	}
	if err := mount("tmpfs", cgroups, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, controller := range controllers {
		data := controller
		if controller == "systemd" {
			data = "none,name=systemd"
		}
		if err := mount("cgroup", filepath.Join(cgroups, controller), "cgroup", 0, data); err != nil {
			return err
		}
	}
	for _, d := range []string{"/var/lib/kubelet", "/var/lib/containerd", "/var/lib/cni", "/var/log/pods", "/var/log/containers", "/etc/cni", "/opt/cni"} {
		own := filepath.Join(dir, d)
		if err := os.MkdirAll(own, 0o755); err != nil {
			return err
		}
		if err := mount(own, d, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	if err := mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, d := range []string{"/run/netns", "/run/lock", "/opt/cni/bin", "/etc/cni/net.d"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := sysctls(); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil { // or pods' mounts would not reach it
		return err
	}
	return os.CopyFS("/opt/cni/bin", os.DirFS("/usr/lib/cni"))
}

// sysctls shows kubelet the values that it wants of the whole machine's, which stay as
// they are: it would set them.
func sysctls() error {
	for name, value := range map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	} {
		own := filepath.Join("/run/sysctl", strings.ReplaceAll(name, "/", "."))
		if err := os.MkdirAll(filepath.Dir(own), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(own, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(own, "/proc/sys/"+name, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("/proc/sys/%s: %w", name, err)
		}
	}
	return nil
}

// imports imports the images of a directory, when containerd listens.
func imports(dir string) error {
	if err := until(context.Background(), "containerd", func() (bool, error) {
		err := exec.Command("ctr", "version").Run()
		return err == nil, err
	}); err != nil {
		return err
	}
	images, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	if err != nil {
		return err
	}
	for _, image := range images {
		if out, err := exec.Command("ctr", "-n", "k8s.io", "images", "import", image).CombinedOutput(); err != nil {
			return fmt.Errorf("import %s: %w: %s", image, err, bytes.TrimSpace(out))
		}
	}
	return nil
}

// inside returns a command that runs in a node, in all its namespaces.
func (c *Cluster) inside(ctx context.Context, node string, command ...string) (*exec.Cmd, error) {
	outer := c.process(node)
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", outer, outer))
	if err != nil || len(bytes.Fields(children)) == 0 {
		return nil, fmt.Errorf("node %s does not run: %w", node, err)
	}
	inner := string(bytes.Fields(children)[0])
	return exec.CommandContext(ctx, "nsenter", append([]string{"-t", inner, "-a"}, command...)...), nil
}

// Load imports images into all nodes.
func (c *Cluster) Load(ctx context.Context, images ...string) error {
	errs := make(chan error)
	for _, n := range Nodes {
		go func() {
			var err error
			for _, image := range images {
				cmd, e := c.inside(ctx, n, "ctr", "-n", "k8s.io", "images", "import", image)
				if e == nil {
					var out []byte
					if out, e = cmd.CombinedOutput(); e != nil {
						e = fmt.Errorf("node %s: import %s: %w: %s", n, image, e, out)
					}
				}
				err = errors.Join(err, e)
			}
			errs <- err
		}()
	}
	var err error
	for range Nodes {
		err = errors.Join(err, <-errs)
	}
	return err
}
