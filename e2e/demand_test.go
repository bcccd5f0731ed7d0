//go:build linux

package e2e

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// With XDS_ON_DEMAND istiod tells of the node's pods, and of others when a connection
// asks; what is decided, and let in, is the same.
func TestOnDemand(t *testing.T) {
	r := start(t)
	r.kubectl("-n", "istio-system", "set", "env", "daemonset/ztunnel", "XDS_ON_DEMAND=true", "ISTIO_META_DNS_CAPTURE=false")
	r.finally("-n", "istio-system", "rollout", "status", "daemonset/ztunnel", "--timeout=120s")
	r.finally("-n", "istio-system", "set", "env", "daemonset/ztunnel", "XDS_ON_DEMAND-", "ISTIO_META_DNS_CAPTURE-") // which is done first
	r.kubectl("-n", "istio-system", "rollout", "status", "daemonset/ztunnel", "--timeout=120s")
	r.settled()

	// known are the pods of the namespace shop that the first node's tunnel has heard of.
	known := func() (names []string) {
		out, err := r.Istioctl(r.ctx, "ztunnel-config", "workload", r.ztunnel("n1").Name+".istio-system", "--workload-namespace", "shop")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "shop" {
				names = append(names, f[1])
			}
		}
		return names
	}
	if names := known(); !slices.Contains(names, r.client.Name) || slices.Contains(names, r.v2.Name) {
		t.Errorf("before anybody asks it knows %v, want those of its node: %s, and not %s", names, r.client.Name, r.v2.Name)
	}
	const id = `identity="spiffe://cluster.local/ns/shop/sa/`
	for _, to := range []string{r.vip("shop", "echo-v2", 80), net.JoinHostPort(r.v2.IP.String(), "8080")} {
		a, line := r.way(r.client, to)
		for _, text := range []string{"dst.addr=" + net.JoinHostPort(r.v2.IP.String(), "15008") + " ", "src." + id + "client", "dst." + id + "echo"} {
			if a.err != nil || a.status != 200 || !strings.Contains(line, text) {
				t.Errorf("to %s: no %s: %s %s", to, text, a, line)
			}
		}
	}
	if names := known(); !slices.Contains(names, r.v2.Name) {
		t.Errorf("after a connection it knows %v, and not %s", names, r.v2.Name)
	}
	for _, to := range []string{net.JoinHostPort(r.plainEcho.IP.String(), "8080"), net.JoinHostPort(r.outside(), "8081")} {
		if a := get(r.ctx, r.client, to); a.err != nil || a.status != 200 || a.source != r.client.IP.String() {
			t.Errorf("to %s, outside the mesh: %s", to, a)
		}
	}
	r.apply(onlyClient)
	r.eventually("the policy", 10*time.Second, func() error {
		if a := get(r.ctx, r.other, r.vip("shop", "echo-v2", 80)); a.err == nil {
			return fmt.Errorf("%s", a)
		}
		return nil
	})
	if a := get(r.ctx, r.client, r.vip("shop", "echo-v2", 80)); a.err != nil || a.status != 200 {
		t.Errorf("who is allowed: %s", a)
	}
}
