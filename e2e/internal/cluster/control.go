//go:build linux

package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// control starts etcd and the programs of the control plane in a namespace of theirs.
func (c *Cluster) control(ctx context.Context) error {
	pki := c.path("pki") + "/"
	const etcd, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
	// Its data is thrown away with the cluster: no need to wait for the disk.
	if err := c.spawn("etcd", c.path("bin", "etcd"), "--data-dir", c.path("etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", etcd, "--advertise-client-urls", etcd,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer,
		"--log-level", "warn"); err != nil {
		return err
	}
	if err := c.spawn("apiserver", c.path("bin", "kube-apiserver"), "--etcd-servers="+etcd,
		"--bind-address=0.0.0.0", "--advertise-address="+control, "--secure-port=6443",
		"--tls-cert-file="+pki+"apiserver.crt", "--tls-private-key-file="+pki+"apiserver.key", "--client-ca-file="+pki+"ca.crt",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file="+pki+"accounts.pub", "--service-account-signing-key-file="+pki+"accounts.key",
		"--kubelet-client-certificate="+pki+"kubelet-client.crt", "--kubelet-client-key="+pki+"kubelet-client.key",
		"--kubelet-preferred-address-types=InternalIP", "--service-cluster-ip-range="+services+","+services6,
		"--enable-aggregator-routing=true", // webhooks: it has no kube-proxy, and asks endpoints itself
		"--endpoint-reconciler-type=lease", "--profiling=false"); err != nil {
		return err
	}
	// The controllers exit if the roles of RBAC are not there yet.
	if err := until(ctx, "the API server", func() (bool, error) { return c.ready(ctx) }); err != nil {
		return fmt.Errorf("%w; see %s", err, c.path("log", "apiserver.log"))
	}
	as := func(who string) []string {
		k := pki + who + ".kubeconfig"
		return []string{"--kubeconfig=" + k, "--authentication-kubeconfig=" + k, "--authorization-kubeconfig=" + k, "--leader-elect=false", "--profiling=false"}
	}
	if err := c.spawn("controllers", append([]string{c.path("bin", "kube-controller-manager"),
		"--use-service-account-credentials=true", "--service-account-private-key-file=" + pki + "accounts.key",
		"--root-ca-file=" + pki + "ca.crt", "--cluster-signing-cert-file=" + pki + "ca.crt", "--cluster-signing-key-file=" + pki + "ca.key"},
		as("controllers")...)...); err != nil {
		return err
	}
	return c.spawn("scheduler", append([]string{c.path("bin", "kube-scheduler")}, as("scheduler")...)...)
}

// spawn starts a program in the namespace of the control plane. It outlives us.
func (c *Cluster) spawn(name string, command ...string) error {
	return c.start(name, append([]string{"nsenter", "--net=/run/netns/" + namespace("cp")}, command...)...)
}

// start starts a program that outlives us, with a log and a file that says its process.
func (c *Cluster) start(name string, command ...string) error {
	log, err := os.Create(c.path("log", name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	pid := cmd.Process.Pid
	go func() { _ = cmd.Wait() }() // if it ends before us, it is no zombie
	since, err := startTime(pid)
	if err != nil {
		return fmt.Errorf("%s ended at once: %w; see %s", name, err, log.Name())
	}
	return os.WriteFile(c.path("pid", name), fmt.Appendf(nil, "%d %s\n", pid, since), 0o644)
}

// startTime tells two processes of the same number apart: proc(5), stat, field 22.
func startTime(pid int) (string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return "", fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	return string(fields[19]), nil
}

// process returns the process that start has started under a name, 0 if it is gone.
func (c *Cluster) process(name string) int {
	text, err := os.ReadFile(c.path("pid", name))
	if err != nil {
		return 0
	}
	number, since, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	pid, err := strconv.Atoi(number)
	if err != nil {
		return 0
	}
	if now, err := startTime(pid); err != nil || now != since {
		return 0
	}
	return pid
}

// Down ends every process of the cluster, and removes everything that Up has made.
func (c *Cluster) Down(ctx context.Context) error {
	entries, err := os.ReadDir(c.path("pid"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if pid := c.process(e.Name()); pid != 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL) // of a node it is process 1: all of it ends
		}
	}
	gone := func() (bool, error) {
		for _, e := range entries {
			if c.process(e.Name()) != 0 {
				return false, nil
			}
		}
		return true, nil
	}
	if err := until(ctx, "end of the processes", gone); err != nil {
		return err
	}
	c.unnetwork(ctx)
	if err := c.uncgroup(ctx); err != nil {
		return err
	}
	return os.RemoveAll(c.Dir)
}

// nodesReady waits for the nodes.
func (c *Cluster) nodesReady(ctx context.Context) error {
	return until(ctx, "both nodes Ready", func() (bool, error) {
		for _, n := range Nodes {
			var node struct {
				Status struct {
					Conditions []struct{ Type, Status string }
				}
			}
			if err := c.Get(ctx, "/api/v1/nodes/"+n, &node); err != nil {
				return false, err
			}
			ready := false
			for _, condition := range node.Status.Conditions {
				ready = ready || condition.Type == "Ready" && condition.Status == "True"
			}
			if !ready {
				return false, nil
			}
		}
		return true, nil
	})
}

// dns applies CoreDNS.
func (c *Cluster) dns(ctx context.Context) error {
	text, err := file("coredns.yaml", nodeFile{DNS: dnsVIP, CoreDNS: CoreDNS, Outside: Outside})
	if err != nil {
		return err
	}
	return c.Apply(ctx, text)
}

// Kubectl runs kubectl as an administrator, and returns what it prints.
func (c *Cluster) Kubectl(ctx context.Context, input string, args ...string) (string, error) {
	return c.tool(ctx, c.path("bin", "kubectl"), input, args...)
}

// Istioctl runs istioctl as an administrator. What needs no cluster it does before there is
// one.
func (c *Cluster) Istioctl(ctx context.Context, args ...string) (string, error) {
	path := c.path("bin", "istioctl")
	if c.Tools != nil {
		path = c.Tools.Path("istioctl")
	}
	return c.tool(ctx, path, "", args...)
}

func (c *Cluster) tool(ctx context.Context, path, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	cmd.Stdin = strings.NewReader(input)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", cmd.Path[strings.LastIndexByte(path, '/')+1:], strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// Apply applies manifests, on the server's side.
func (c *Cluster) Apply(ctx context.Context, manifests string) error {
	_, err := c.Kubectl(ctx, manifests, "apply", "--server-side", "--force-conflicts", "-f", "-")
	return err
}

// decode reads an answer of the API server.
func decode(body []byte, into any) error {
	if into == nil {
		return nil
	}
	return json.Unmarshal(body, into)
}

// Runs reports whether the cluster is up.
func (c *Cluster) Runs() bool {
	for _, name := range append([]string{"etcd", "apiserver", "controllers", "scheduler"}, Nodes...) {
		if c.process(name) == 0 {
			return false
		}
	}
	return true
}
