//go:build linux

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/e2e/internal/cluster"
)

// Where a connection goes that a pod of the mesh makes, by what it is made to.
func TestOutboundDecisions(t *testing.T) {
	r := start(t)
	outside := r.outside()
	r.apply(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: through, namespace: shop}
spec:
  hosts: [through.test]
  addresses: [10.88.255.0/30]
  location: MESH_EXTERNAL
  resolution: NONE
  ports: [{number: 8083, name: tcp, protocol: TCP}]
`)
	type row struct {
		name   string
		to     string
		pod    cluster.Pod // who answers; none if it is refused
		via    string      // dst.addr in the log of the node tunnel
		tunnel string      // dst.hbone_addr; "" if it is TCP
	}
	at := func(p cluster.Pod, port int) string { return net.JoinHostPort(p.IP.String(), fmt.Sprint(port)) }
	for _, row := range []row{
		{"VIP of pods of the mesh", r.vip("shop", "echo-v2", 80), r.v2, at(r.v2, 15008), at(r.v2, 8080)},
		{"VIP of a pod on the same node", r.vip("shop", "echo-v1", 80), r.v1, at(r.v1, 15008), at(r.v1, 8080)},
		{"VIP of pods outside the mesh", r.vip("plain", "echo", 80), r.plainEcho, at(r.plainEcho, 8080), ""},
		{"IP of a pod of the mesh", at(r.v2, 8080), r.v2, at(r.v2, 15008), at(r.v2, 8080)},
		{"IP of a pod outside the mesh", at(r.plainEcho, 8080), r.plainEcho, at(r.plainEcho, 8080), ""},
		{"VIP without an endpoint", r.vip("shop", "nobody", 80), cluster.Pod{}, "", ""},
		{"port that the service has not", r.vip("shop", "echo-v2", 81), cluster.Pod{}, "", ""},
		{"address that nobody knows", outside + ":8081", cluster.Pod{Name: "outside"}, outside + ":8081", ""},
		{"CIDR of a ServiceEntry that resolves nothing", outside + ":8083", cluster.Pod{Name: "outside"}, outside + ":8083", ""},
	} {
		t.Run(strings.ReplaceAll(row.name, " ", "-"), func(t *testing.T) {
			r.t = t
			if row.pod.Name == "" {
				if a := get(r.ctx, r.client, row.to); a.err == nil {
					t.Fatalf("an answer, want none: %s", a)
				}
				return
			}
			a, line := r.way(r.client, row.to)
			if a.err != nil || a.status != http.StatusOK || a.pod != row.pod.Name {
				t.Fatalf("%s, want one by %s", a, row.pod.Name)
			}
			if !strings.Contains(line, "dst.addr="+row.via+" ") {
				t.Errorf("not by %s: %s", row.via, line)
			}
			if tunnel := strings.Contains(line, "dst.hbone_addr="+row.tunnel); (row.tunnel != "") != tunnel || row.tunnel == "" && strings.Contains(line, "hbone_addr") {
				t.Errorf("tunnel to %q: %s", row.tunnel, line)
			}
		})
	}
	r.t = t
	t.Run("headless-name", func(t *testing.T) {
		r.t = t
		out := r.kubectl("-n", "shop", "exec", "deploy/client", "--", "curl", "-s", "http://headless.shop:8080/")
		if !strings.Contains(out, "pod: "+r.v2.Name) {
			t.Errorf("headless.shop:8080 is answered by %s, want %s", out, r.v2.Name)
		}
	})
	t.Run("own-VIP", func(t *testing.T) { // hairpin: out by 15001 and in by 15008 of the same pod
		if a := get(r.ctx, r.v2, r.vip("shop", "echo-v2", 80)); a.status != 200 || a.pod != r.v2.Name {
			t.Error(a)
		}
	})
}

// outside serves on this machine, which is neither pod nor Service, and returns its address.
func (r *rig) outside() string {
	r.t.Helper()
	for _, port := range []string{"8081", "8083"} {
		ln, err := net.Listen("tcp", net.JoinHostPort(cluster.Outside, port))
		if err != nil {
			r.t.Fatal(err)
		}
		s := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			source, _, _ := net.SplitHostPort(q.RemoteAddr)
			fmt.Fprintf(w, "pod: outside\nsource: %s\n", source)
		})}
		go s.Serve(ln)
		r.t.Cleanup(func() { s.Close() })
	}
	return cluster.Outside
}

// Both endpoints of a service get their share.
func TestConnectionsAreSpreadOverEndpoints(t *testing.T) {
	r := start(t)
	count := map[string]int{}
	vip := r.vip("shop", "echo", 80)
	for range 100 {
		a := get(r.ctx, r.client, vip)
		if a.status != 200 {
			t.Fatal(a)
		}
		count[a.pod]++
	}
	if count[r.v1.Name] < 25 || count[r.v2.Name] < 25 {
		t.Errorf("of 100 connections, %v", count)
	}
}
