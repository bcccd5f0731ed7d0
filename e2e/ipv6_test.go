//go:build linux

package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/e2e/internal/cluster"
)

// Pods and Services have IPv6 addresses, too, and all is as by IPv4.
func TestIPv6(t *testing.T) {
	r := start(t)
	r.apply(`apiVersion: v1
kind: Service
metadata: {name: echo-six, namespace: shop}
spec:
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv6, IPv4]
  selector: {app: echo, version: v2}
  ports: [{name: http, port: 80, targetPort: 8080}]
`)
	six := func(p cluster.Pod) string { return net.JoinHostPort(p.IP6.String(), "8080") }
	vip := r.vip("shop", "echo-six", 80)
	if !strings.HasPrefix(vip, "[") {
		t.Fatalf("the Service has %s", vip)
	}
	const id = `identity="spiffe://cluster.local/ns/shop/sa/`
	for _, to := range []string{vip, six(r.v2)} {
		r.eventually("HBONE to "+to, 10*time.Second, func() error {
			a, line := r.way(r.client, to)
			for _, text := range []string{"dst.addr=" + net.JoinHostPort(r.v2.IP6.String(), "15008") + " ", "src." + id + "client", "dst." + id + "echo"} {
				if a.err != nil || a.status != 200 || !strings.Contains(line, text) {
					return fmt.Errorf("no %s: %s %s", text, a, line)
				}
			}
			return nil
		})
	}
	for _, row := range []struct{ from, to cluster.Pod }{{r.client, r.plainEcho}, {r.plain, r.v2}} {
		if a := get(r.ctx, row.from, six(row.to)); a.err != nil || a.status != 200 || a.source != row.from.IP6.String() {
			t.Errorf("from %s to %s, of which one is outside the mesh: %s", row.from.Name, row.to.Name, a)
		}
	}
	if err := r.reaches("shop", "deploy/client", "http://echo-six/", "pod: "+r.v2.Name); err != nil {
		t.Error(err)
	}
	r.apply(onlyClient)
	r.apply("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: mtls, namespace: shop}\nspec: {mtls: {mode: STRICT}}\n")
	for _, from := range []cluster.Pod{r.other, r.plain} {
		r.eventually(from.Name+" is refused", 10*time.Second, func() error {
			if a := get(r.ctx, from, six(r.v2)); a.err == nil {
				return fmt.Errorf("%s", a)
			}
			return nil
		})
	}
	if a := get(r.ctx, r.client, vip); a.err != nil || a.status != 200 {
		t.Errorf("who is allowed: %s", a)
	}
}
