//go:build linux

package e2e

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/e2e/internal/mesh"
)

// A service may have a second waypoint, which takes a part of its connections.
func TestCanaryWaypoint(t *testing.T) {
	r := start(t)
	text, err := os.ReadFile("../deploy/waypoint.yaml")
	if err != nil {
		t.Fatal(err)
	}
	label := func(labels ...string) {
		t.Helper()
		r.kubectl(append([]string{"-n", "shop", "label", "--overwrite", "service/echo-v2"}, labels...)...)
	}
	r.apply(strings.NewReplacer("name: waypoint-config", "name: waypoint-config", "name: waypoint", "name: canary",
		"serviceAccountName: waypoint", "serviceAccountName: canary", "shop/waypoint", "shop/canary", "waypoint.shop.svc", "canary.shop.svc",
		"image: waystone/waypoint", "image: "+mesh.Waypoint+"\n        imagePullPolicy: Never").Replace(string(text)))
	r.finally("-n", "shop", "delete", "gateway/waypoint", "deployment/waypoint", "service/waypoint", "serviceaccount/waypoint", "configmap/waypoint-config", "--ignore-not-found")
	// Of the same files, each of the two takes what names it.
	label("istio.io/use-waypoint=waypoint", "istio.io/use-waypoint-canary=canary")
	r.finally("-n", "shop", "label", "service/echo-v2", "istio.io/use-waypoint-", "istio.io/use-waypoint-canary-")
	r.finally("-n", "shop", "annotate", "service/echo-v2", "istio.io/use-waypoint-canary-weight-")
	r.waypoint("shop", true)
	at := map[string]string{}
	for _, name := range []string{"waypoint", "canary"} {
		at[name] = "dst.addr=" + net.JoinHostPort(r.pod("shop", "gateway.networking.k8s.io/gateway-name="+name).IP.String(), "15008") + " "
	}
	vip := r.vip("shop", "echo-v2", 80)

	// by says by which waypoint a connection goes.
	by := func() (string, error) {
		t.Helper()
		a, line := r.way(r.client, vip)
		if a.err != nil || a.status != 200 {
			return "", fmt.Errorf("%s", a)
		}
		for name, text := range at {
			if strings.Contains(line, text) {
				return name, nil
			}
		}
		return "", fmt.Errorf("by no waypoint: %s", line)
	}
	const n = 40
	for _, row := range []struct {
		weight      string
		first       string // one by this waypoint, and the weight is in force
		least, most int    // of n, by the canary
	}{
		{"0", "waypoint", 0, 0},
		{"100", "canary", n, n},
		{"50", "waypoint", 5, n - 5}, // beyond that once in some million times
	} {
		t.Run("weight-"+row.weight, func(t *testing.T) {
			r.t = t
			r.kubectl("-n", "shop", "annotate", "--overwrite", "service/echo-v2", "istio.io/use-waypoint-canary-weight="+row.weight)
			r.eventually("the weight is in force", 20*time.Second, func() error {
				name, err := by()
				if err == nil && name != row.first {
					err = fmt.Errorf("by %s", name)
				}
				return err
			})
			count := map[string]int{}
			for range n {
				name, err := by()
				if err != nil {
					t.Fatal(err)
				}
				count[name]++
			}
			t.Logf("with weight %s, of %d connections: %v", row.weight, n, count)
			if c := count["canary"]; c < row.least || c > row.most {
				t.Errorf("%v, want %d to %d by the canary and the rest by the waypoint", count, row.least, row.most)
			}
		})
	}
	r.t = t
}
