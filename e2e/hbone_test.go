//go:build linux

package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// What goes from pod to pod goes over HBONE, and under certificates of istiod's CA.
func TestPodsTalkOverHBONEWithIdentities(t *testing.T) {
	r := start(t)
	wire := r.sniff("n2")
	vip := r.vip("shop", "echo-v2", 80)
	if a := request(r.ctx, r.client, vip, "GET", "/a-path-that-nobody-should-read"); a.err != nil || a.status != 200 {
		t.Fatalf("client to echo-v2: %s", a)
	}
	a, out := r.way(r.client, vip)
	if a.err != nil || a.status != 200 {
		t.Fatalf("client to echo-v2: %s", a)
	}
	if a.source != r.client.IP.String() {
		t.Errorf("echo saw %s as its client, want %s", a.source, r.client.IP)
	}
	seen := wire.end()
	if n := seen[15008]; n == 0 {
		t.Errorf("no packet to port 15008 came to node n2, of %v", seen)
	}
	if wire.has("a-path-that-nobody-should-read") {
		t.Errorf("the request was on the wire as it is")
	}
	in := r.logged("n2", "src.addr="+r.client.IP.String()+":", `direction="inbound"`, "connection complete")
	for _, line := range []string{out, in} {
		for _, want := range []string{
			`src.identity="spiffe://cluster.local/ns/shop/sa/client"`,
			`dst.identity="spiffe://cluster.local/ns/shop/sa/echo"`,
			fmt.Sprintf("dst.addr=%s:15008", r.v2.IP),
			fmt.Sprintf("dst.hbone_addr=%s:8080", r.v2.IP),
		} {
			if !strings.Contains(line, want) {
				t.Errorf("%s\nlacks %s", line, want)
			}
		}
	}
}

// Nobody gets in at port 15008 without a certificate, and what is shown there is signed by
// istiod.
func TestServerCertificateIsIstiods(t *testing.T) {
	r := start(t)
	root := r.kubectl("-n", "shop", "get", "configmap", "istio-ca-root-cert", "-o", `jsonpath={.data.root-cert\.pem}`)
	block, _ := pem.Decode([]byte(root))
	if block == nil {
		t.Fatalf("no PEM in the ConfigMap of istiod's root: %q", root)
	}
	conn, err := r.plain.Dial(r.ctx, "tcp", netip.AddrPortFrom(r.v2.IP, 15008).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	err = client.Handshake() // in TLS 1.3 it is refused after that
	if err == nil {
		_, err = client.Read(make([]byte, 1))
	}
	if err == nil {
		t.Error("a client without a certificate was not refused")
	}
	shown := client.ConnectionState().PeerCertificates
	if len(shown) == 0 {
		t.Fatal("no certificate was shown")
	}
	if got, want := shown[0].URIs[0].String(), "spiffe://cluster.local/ns/shop/sa/echo"; got != want {
		t.Errorf("the certificate is %s's, want %s", got, want)
	}
	last := shown[len(shown)-1]
	if !bytes.Equal(last.Raw, block.Bytes) && !strings.Contains(last.Issuer.String(), "cluster.local") {
		t.Errorf("the chain ends with %s", last.Issuer)
	}
}

// Who is not in the mesh is heard, and reached, in plaintext.
func TestPodsOutsideTheMeshAreReachedBothWays(t *testing.T) {
	r := start(t)
	if a := get(r.ctx, r.plain, r.vip("shop", "echo-v2", 80)); a.status != 200 || a.source != r.plain.IP.String() {
		t.Errorf("plain client to echo-v2: %s", a)
	}
	a, line := r.way(r.client, r.vip("plain", "echo", 80))
	if a.status != 200 || a.source != r.client.IP.String() {
		t.Errorf("client to plain echo: %s", a)
	}
	if strings.Contains(line, "hbone_addr") || !strings.Contains(line, fmt.Sprintf("dst.addr=%s:8080", r.plainEcho.IP)) {
		t.Errorf("to a pod outside the mesh, not by TCP: %s", line)
	}
}
