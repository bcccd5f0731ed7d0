package dump

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/script"
)

var productpage = identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "bookinfo-productpage"}

// tunnel has a pod with a connection in either direction, and one that waits.
func tunnel() Tunnel {
	vip, since := "127.96.0.10:9080", time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	return Tunnel{
		Settings: Settings{
			Proxy: true, ProxyMode: "Shared", LocalNode: "node-1", ClusterID: "Kubernetes", ClusterDomain: "cluster.local",
			AdminAddr: ListenOn("127.0.0.1:15000"), StatsAddr: ListenOn(":15020"), ReadinessAddr: ListenOn("off"),
			XDSAddress: Address("https://user:secret@istiod:15012?token=secret"), XDSRoot: RootAt("SYSTEM"), SecretTTL: SpanOf(1500 * time.Millisecond),
		},
		Problems: []string{"loop 1 has not told"},
		Pods: map[string]Pod{
			"Kubernetes//Pod/default/productpage-v1": {
				State: "Up", Identity: productpage, InMesh: true, Info: PodInfo{Name: "productpage-v1", Namespace: "default"},
				Connections: Connections{
					Inbound:  []Connection{{Src: "127.244.1.9:40000", ActualDst: "127.244.1.24:9080", Protocol: "HBONE", Peer: "spiffe://cluster.local/ns/default/sa/sleep", Since: since, Received: 1, Sent: 2}},
					Outbound: []Connection{{Src: "127.244.1.24:40001", OriginalDst: &vip, ActualDst: "10.0.0.1:9080", Protocol: "TCP", Service: "details", Since: since}},
				},
			},
			"Kubernetes//Pod/default/late":  {State: "Pending", Reason: "the port is taken", Identity: productpage, InMesh: true, Info: PodInfo{Name: "late", Namespace: "default"}},
			"Kubernetes//Pod/default/plain": {State: "Up", Identity: identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "plain"}, Info: PodInfo{Name: "plain", Namespace: "default"}},
		},
	}
}

func TestZtunnelDumpHasTheShapeOfZtunnels(t *testing.T) {
	d := encoded(t, Ztunnel(subject(t, config.Options{}), tunnel()))
	w := find(t, at(t, d, "workloads"), "name", "productpage-v1")
	want(t, at(t, w, "workloadIps"), `["127.244.1.24"]`)
	want(t, at(t, w, "protocol"), `"HBONE"`)
	want(t, at(t, w, "networkMode"), `"Standard"`)
	want(t, at(t, w, "status"), `"Healthy"`)
	want(t, at(t, w, "serviceAccount"), `"bookinfo-productpage"`)
	want(t, at(t, w, "waypoint"), `{"destination":"/127.244.1.50","hboneMtlsPort":15008}`)
	want(t, at(t, w, "services"), `["default/productpage.default.svc.cluster.local"]`)
	want(t, at(t, w, "locality", "zone"), `"zone-1"`)

	s := find(t, at(t, d, "services"), "name", "productpage")
	want(t, at(t, s, "vips"), `["/127.96.0.10"]`)
	want(t, at(t, s, "ports"), `{"9080":9080}`)
	e := at(t, s, "endpoints", "Kubernetes//Pod/default/productpage-v1")
	want(t, e, `{"port":{"9080":9080},"service":"default/productpage.default.svc.cluster.local","status":"Healthy","workloadUid":"Kubernetes//Pod/default/productpage-v1"}`)
	want(t, at(t, d, "stagedServices"), `{}`)

	r := find(t, at(t, d, "rejected"), "name", "bad")
	want(t, at(t, r, "failsClosed"), `true`)
	want(t, at(t, d, "problems"), `["a.yaml:1: no","loop 1 has not told"]`)
	if at(t, d, "version", "goVersion") == "" {
		t.Error("no Go version")
	}
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "secret@") || strings.Contains(string(text), "token=") {
		t.Error("there is a secret of an address in the dump")
	}
}

// What istioctl and Kiali decode: a field of another type loses them the whole
// dump.
func TestZtunnelDumpDecodesWhereItIsRead(t *testing.T) {
	text, err := json.Marshal(Ztunnel(subject(t, config.Options{}), tunnel()))
	if err != nil {
		t.Fatal(err)
	}
	type text1 struct {
		Exact, Prefix, Suffix string
		Presence              any
	}
	type span struct{ Secs, Nanos int }
	var d struct {
		Policies []struct {
			Rules [][][]struct {
				Namespaces, NotNamespaces, Principals, NotPrincipals []text1
				SourceIps, NotSourceIps                              []string
				DestinationPorts, NotDestinationPorts                []uint16
				ServiceAccounts, NotServiceAccounts                  []struct{ Namespace, ServiceAccount string }
			}
		}
		Services []struct {
			Ports     map[string]int
			Endpoints map[string]struct{ Port map[uint16]uint16 }
		}
		Certificates []struct {
			CertChain, RootCerts []struct{ Pem, SerialNumber, ValidFrom, ExpirationTime string }
		}
		WorkloadState map[string]struct {
			Connections struct {
				Inbound, Outbound []struct{ Src, OriginalDst, ActualDst, Protocol string }
			}
		}
		Config struct {
			AdminAddr                           struct{ Localhost []any }
			StatsAddr, ReadinessAddr            struct{ SocketAddr string }
			IllegalPorts                        []int
			SecretTTL, PoolUnusedReleaseTimeout span
			XdsRootCert, CaRootCert             struct{ File string }
			Socks5Addr, AltXdsHostname          *string
		}
	}
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&d); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(d.Config.AdminAddr, d.Config.StatsAddr, d.Config.ReadinessAddr, d.Config.SecretTTL, d.Config.XdsRootCert), "{[false 15000]} {[::]:15020} {} {1 500000000} {SYSTEM}"; got != want {
		t.Errorf("config: got %s, want %s", got, want)
	}
	if len(d.Certificates) != 1 || len(d.Certificates[0].CertChain) == 0 || len(d.Certificates[0].RootCerts) != 1 {
		t.Fatalf("certificates: got %+v, want a chain and a root, once", d.Certificates)
	}
	for _, c := range append(d.Certificates[0].CertChain, d.Certificates[0].RootCerts...) {
		pem, err := base64.StdEncoding.DecodeString(c.Pem)
		from, ferr := time.Parse(time.RFC3339, c.ValidFrom)
		to, terr := time.Parse(time.RFC3339, c.ExpirationTime)
		if err != nil || ferr != nil || terr != nil || !from.Before(to) || !strings.HasPrefix(string(pem), "-----BEGIN CERTIFICATE-----") || len(c.SerialNumber) < 5 {
			t.Errorf("got %+v", c)
		}
	}
	if n := len(d.WorkloadState["Kubernetes//Pod/default/productpage-v1"].Connections.Outbound); n != 1 {
		t.Errorf("got %d outbound connections, want 1", n)
	}
}

func TestWorkloadStateIsAsZtunnelHasIt(t *testing.T) {
	text, err := json.MarshalIndent(Ztunnel(subject(t, config.Options{}), tunnel()).WorkloadState, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	script.Golden(t, "testdata/workloadstate.golden", string(text)+"\n")
}

// Policies are told as they bind a node tunnel: what an ALLOW rule asks for that
// it does not see drops the rule, and of a DENY rule the field, which leaves an
// empty match where there was nothing else.
func TestPoliciesAreAsZtunnelHasThem(t *testing.T) {
	s := subject(t, config.Options{})
	list := s.Snapshot.Policies()
	list = append(list,
		&authz.Policy{Name: "mixed", Namespace: "istio-system", Rules: []authz.Rule{
			{From: []authz.Source{{Principals: []string{"*"}}}, To: []authz.Operation{{Methods: []string{"GET"}}}},
			{
				From: []authz.Source{
					{ServiceAccounts: []string{"a/b", "c"}, NotIPBlocks: []string{"10.0.0.1", "fd00::/8"}},
					{Namespaces: []string{"n*"}, NotPrincipals: []string{"*/sa/x"}},
				},
				When: []authz.Condition{
					{Key: "destination.port", Values: []string{"80", "8080"}},
					{Key: "source.principal", NotValues: []string{"p"}},
					{Key: "source.ip", Values: []string{"10.0.0.0/8"}},
					{Key: "destination.ip", NotValues: []string{"10.1.1.1"}},
				},
			},
		}},
		&authz.Policy{Name: "mixed", Namespace: "default", Action: authz.Deny, DryRun: true, Rules: []authz.Rule{{
			From: []authz.Source{{Principals: []string{"a"}, RequestPrincipals: []string{"*"}}},
			To:   []authz.Operation{{Paths: []string{"/admin"}, Ports: []string{"9080"}}, {Methods: []string{"PUT"}}},
			When: []authz.Condition{{Key: "request.headers[x]", Values: []string{"y"}}},
		}}},
	)
	var out []L4Policy
	for _, p := range list {
		if len(p.TargetRefs) == 0 {
			out = append(out, l4Policy(p, "istio-system"))
		}
	}
	text, err := json.MarshalIndent(out, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	script.Golden(t, "testdata/policies.golden", string(text)+"\n")
}

func TestPoliciesThatDoNotBindANodeTunnelAreLeftOut(t *testing.T) {
	d := Ztunnel(subject(t, config.Options{}), Tunnel{})
	for _, p := range d.Policies {
		if p.Name == "candidate" || p.Name == "productpage-viewer" && p.Scope != "WorkloadSelector" {
			t.Errorf("%s is there, which has targetRefs", p.Name)
		}
	}
	if len(d.Policies) == 0 {
		t.Error("there are no policies")
	}
}

func TestServiceTellsAllThatThereIsOfIt(t *testing.T) {
	gw := mesh.GatewayAddress{Hostname: mesh.Hostname{Namespace: "ns", Host: "gw.ns"}, Port: 15008}
	text, err := json.MarshalIndent(service(&mesh.Service{
		Name: "s", Namespace: "ns", Hostname: "s.ns", SANs: []string{"spiffe://a"},
		Addresses: []mesh.Prefix{
			{Network: "n", Prefix: netip.MustParsePrefix("10.0.0.1/32")},
			{Prefix: netip.MustParsePrefix("240.240.0.0/16")},
		},
		Ports:    []mesh.Port{{Service: 80, Target: 8080}},
		Waypoint: &gw, Canary: []mesh.WeightedWaypoint{{Waypoint: gw, Weight: 9}},
		Canonical: true, Private: true, Families: mesh.DualStack,
		Balance: mesh.Balance{Mode: mesh.Strict, Preference: []mesh.Scope{mesh.Node}},
	}), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	script.Golden(t, "testdata/service.golden", string(text)+"\n")
}

// Endpoints of a service that is still to come are told by themselves.
func TestEndpointsOfUnknownServicesAreStaged(t *testing.T) {
	store := config.NewStore(config.Options{})
	w := &mesh.Workload{
		UID: "u", Name: "u", Namespace: "ns", TrustDomain: "cluster.local",
		Services: map[mesh.Hostname]mesh.Membership{{Namespace: "ns", Host: "late.ns"}: {Ports: map[uint16]uint16{80: 8080}}},
	}
	if err := store.Apply([]config.Update{{Key: w.Key(), Value: w}}); err != nil {
		t.Fatal(err)
	}
	_, staged := services(store.Snapshot())
	if e := staged["ns/late.ns"]["u"]; e == nil || e.Port["80"] != 8080 {
		t.Errorf("got %v, want the endpoint u", staged)
	}
}

// A silent source is one whose CA never answers.
type silent struct{}

func (silent) Certificate(ctx context.Context, _ identity.ID) (*tls.Certificate, error) {
	<-ctx.Done()
	return nil, fmt.Errorf("the CA has not answered: %w", ctx.Err())
}
func (silent) Roots() *x509bundle.Set { return x509bundle.NewSet() }
func (silent) Terms() *identity.Terms { return new(identity.Terms) }

func TestACertificateThatIsAskedForIsInitializing(t *testing.T) {
	got := certificates(silent{}, []identity.ID{productpage})
	if len(got) != 1 || got[0].State != "Initializing" || got[0].CertChain == nil || got[0].RootCerts == nil {
		t.Errorf("got %+v", got)
	}
}

func TestSettingsTellNoSecret(t *testing.T) {
	var s Settings
	s.Identify("istio:https://u:secret@ca:15012", RootAt("-----BEGIN CERTIFICATE-----"), "n")
	if s.CAAddress != "https://ca:15012" || s.CARoot.File != "" || s.CAHostname != "n" || s.FakeCA {
		t.Errorf("got %+v", s)
	}
	s = Settings{}
	if s.Identify("self:/tmp", nil, ""); !s.FakeCA || s.IdentitySource != "self" || s.CAAddress != "" {
		t.Errorf("got %+v", s)
	}
	for address, want := range map[string]string{
		"localhost:1": "{[true 1] }", "[::1]:2": "{[true 2] }", "0.0.0.0:3": "{[] 0.0.0.0:3}",
	} {
		if got := fmt.Sprint(*ListenOn(address)); got != want {
			t.Errorf("%s: got %s, want %s", address, got, want)
		}
	}
}
