//go:build linux

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// Without istiod, everything goes on; and when it is back, edits count again.
func TestIstiodMayBeAway(t *testing.T) {
	r := start(t)
	vip := r.vip("shop", "echo", 80)
	loads := []*load{r.load("a connection each", r.client, vip, each), r.load("one connection", r.client, vip, kept)}
	r.kubectl("-n", "istio-system", "scale", "deployment/istiod", "--replicas=0")
	r.finally("-n", "istio-system", "scale", "deployment/istiod", "--replicas=1") // the other tests need it
	r.eventually("istiod's end", time.Minute, func() error {
		out, err := r.Kubectl(r.ctx, "", "-n", "istio-system", "get", "pods", "-l", "app=istiod", "-o", "name")
		if err == nil && strings.TrimSpace(out) != "" {
			err = fmt.Errorf("still there: %s", out)
		}
		return err
	})
	time.Sleep(5 * time.Second)
	r.kubectl("-n", "istio-system", "scale", "deployment/istiod", "--replicas=1")
	r.kubectl("-n", "istio-system", "rollout", "status", "deployment/istiod", "--timeout=60s")
	time.Sleep(2 * time.Second)
	r.lossless(loads...)
	r.apply(onlyClient)
	r.eventually("a policy after istiod is back", 30*time.Second, func() error {
		if a := get(r.ctx, r.other, r.vip("shop", "echo-v2", 80)); a.err == nil {
			return fmt.Errorf("%s", a)
		}
		return nil
	})
}

// serials returns the serial numbers of the certificates that a node tunnel has, by identity.
func (r *rig) serials(node string) map[string]string {
	r.t.Helper()
	out, err := r.Istioctl(r.ctx, "ztunnel-config", "certificate", r.ztunnel(node).Name+".istio-system", "-o", "json")
	if err != nil {
		r.t.Fatal(err)
	}
	var certificates []struct {
		Identity  string
		CertChain []struct{ SerialNumber string }
	}
	if err := json.Unmarshal([]byte(out), &certificates); err != nil {
		r.t.Fatalf("%v: %s", err, out)
	}
	serials := map[string]string{}
	for _, c := range certificates {
		if len(c.CertChain) > 0 {
			serials[c.Identity] = c.CertChain[0].SerialNumber
		}
	}
	return serials
}

// Certificates are replaced while they are in use.
func TestCertificatesRotateUnderLoad(t *testing.T) {
	r := start(t)
	r.kubectl("-n", "istio-system", "set", "env", "daemonset/ztunnel", "SECRET_TTL=20s")
	r.finally("-n", "istio-system", "rollout", "status", "daemonset/ztunnel", "--timeout=120s")
	r.finally("-n", "istio-system", "set", "env", "daemonset/ztunnel", "SECRET_TTL-") // which is done first
	r.kubectl("-n", "istio-system", "rollout", "status", "daemonset/ztunnel", "--timeout=120s")
	r.settled()
	vip := r.vip("shop", "echo-v2", 80)
	const id = "spiffe://cluster.local/ns/shop/sa/client"
	loads := []*load{r.load("a connection each", r.client, vip, each), r.load("one connection", r.client, vip, kept)}
	var seen []string
	for deadline := time.Now().Add(45 * time.Second); time.Now().Before(deadline); time.Sleep(3 * time.Second) {
		if s := r.serials("n1")[id]; s != "" && !slices.Contains(seen, s) {
			seen = append(seen, s)
		}
	}
	r.lossless(loads...)
	t.Logf("certificates of %s within 45s: %d", id, len(seen))
	if len(seen) < 3 {
		t.Errorf("%d certificates in 45 s, of 20 s each", len(seen))
	}
}

// settled waits until each node has one node tunnel.
func (r *rig) settled() {
	r.t.Helper()
	r.eventually("one node tunnel a node", 2*time.Minute, func() error {
		out, err := r.Kubectl(r.ctx, "", "-n", "istio-system", "get", "pods", "-l", "app=ztunnel", "-o", "name")
		if n := strings.Count(out, "pod/"); err == nil && n != 2 {
			err = fmt.Errorf("%d of them", n)
		}
		return err
	})
}

// A rollout of the node tunnel: nothing new is lost, and what is long is ended at its
// deadline.
func TestUpgradeUnderLoad(t *testing.T) {
	r := start(t)
	vip := r.vip("shop", "echo-v2", 80)
	// Long ones are counted, not failures: the old tunnel has a deadline.
	const long = 10
	ended := make(chan time.Duration, long)
	began := time.Now()
	for range long {
		conn, err := r.client.Dial(r.ctx, "tcp", r.vip("shop", "echo-v2", 9000))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		go func() {
			lines := bufio.NewReader(conn)
			for {
				if _, err := lines.ReadString('\n'); err != nil {
					ended <- time.Since(began)
					return
				}
				time.Sleep(100 * time.Millisecond)
				fmt.Fprintln(conn, "on")
			}
		}()
	}
	l := r.load("a connection each", r.client, vip, each)
	time.Sleep(time.Second)
	r.kubectl("-n", "istio-system", "rollout", "restart", "daemonset/ztunnel")
	r.kubectl("-n", "istio-system", "rollout", "status", "daemonset/ztunnel", "--timeout=120s")
	r.settled()
	time.Sleep(2 * time.Second)
	cut := len(ended)
	var times []string
	for range cut {
		times = append(times, (<-ended).Round(time.Second).String())
	}
	slices.Sort(times)
	t.Logf("long connections: %d of %d were cut, after %v; the rollout took %s", cut, long, times, time.Since(began).Round(time.Second))
	r.lossless(l)
}

// Who is connected to a pod that is deleted knows at once, and new connections go elsewhere.
func TestDeletedPodsAreSeenAtOnce(t *testing.T) {
	r := start(t)
	l := r.load("a connection each, to both", r.client, r.vip("shop", "echo", 80), each)
	conn, err := r.client.Dial(r.ctx, "tcp", net.JoinHostPort(r.v2.IP.String(), "9000"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	lines := bufio.NewReader(conn)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r.kubectl("-n", "shop", "delete", "pod", r.v2.Name, "--wait=false")
	_ = conn.SetReadDeadline(began.Add(40 * time.Second))
	_, err = lines.ReadString('\n')
	took := time.Since(began)
	t.Logf("the connection to the deleted pod ended after %s: %v (its grace period is 3 s)", took.Round(time.Millisecond), err)
	if err == nil || isTimeout(err) || took > 6*time.Second {
		t.Errorf("it took %s, want no more than the grace period and some: %v", took, err)
	}
	r.pod("shop", "app=echo,version=v2")
	time.Sleep(time.Second)
	// The program listens for half a second more, within which everybody has heard.
	sent, failed := l.end()
	t.Logf("%s: %d requests, %d failed: %s", l.name, sent, len(failed), strings.Join(failed[:min(3, len(failed))], "; "))
	if len(failed) > 0 {
		t.Errorf("%d requests failed", len(failed))
	}
}

// What istioctl shows of our dump.
func TestIstioctlReadsTheDump(t *testing.T) {
	r := start(t)
	r.apply(onlyClient)
	r.apply("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: mtls, namespace: shop}\nspec: {mtls: {mode: STRICT}}\n")
	conn, err := r.client.DialFresh(r.ctx, r.vip("shop", "echo-v2", 9000))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	pod := r.ztunnel("n1").Name + ".istio-system"
	for _, want := range []struct {
		what  string
		lines [][]string // words that a line has, in order
	}{
		{"workload", [][]string{{"shop", r.v2.Name, r.v2.IP.String(), "n2", "None", "HBONE"}, {"plain", r.plain.Name, r.plain.IP.String(), "n1", "None", "TCP"}}},
		{"service", [][]string{{"shop", "echo", "None", "2/2"}, {"shop", "nobody", "None", "0/0"}}},
		{"policy", [][]string{{"shop", "echo", "Allow", "WorkloadSelector"}}},
		{"certificate", [][]string{{"spiffe://cluster.local/ns/shop/sa/client", "Leaf", "Available", "true"}, {"spiffe://cluster.local/ns/shop/sa/client", "Root", "Available", "true"}}},
		{"connections", [][]string{{r.client.Name + ".shop", "Outbound", r.client.Name + ".shop:" + port(conn), r.v2.Name + ".shop:"}}},
	} {
		t.Run(want.what, func(t *testing.T) {
			var out string
			var missing []string
			for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(200 * time.Millisecond) {
				var err error
				if out, err = r.Istioctl(r.ctx, "ztunnel-config", want.what, pod); err != nil {
					t.Fatal(err)
				}
				missing = nil
				for _, words := range want.lines {
					if !hasLine(out, words) {
						missing = append(missing, strings.Join(words, " … "))
					}
				}
				if len(missing) == 0 || time.Now().After(deadline) {
					break
				}
			}
			if len(missing) > 0 {
				t.Errorf("no line %q in\n%s", missing, out)
			}
		})
	}
}

func port(conn net.Conn) string {
	return fmt.Sprint(conn.LocalAddr().(*net.TCPAddr).AddrPort().Port())
}

func hasLine(text string, words []string) bool {
	for line := range strings.Lines(text) {
		rest, ok := line, true
		for _, w := range words {
			_, after, found := strings.Cut(rest, w)
			rest, ok = after, ok && found
		}
		if ok {
			return true
		}
	}
	return false
}
