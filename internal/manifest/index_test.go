package manifest

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// TestIncrementalEqualsFresh makes random changes, and compares what an Index
// says along the way with what a fresh one makes of the same objects at once.
// It finds what touch forgets.
func TestIncrementalEqualsFresh(t *testing.T) {
	seeds, steps := uint64(60), 80
	if testing.Short() {
		seeds = 4
	}
	for seed := range seeds {
		history(t, seed, steps)
		if t.Failed() {
			return
		}
	}
}

func history(t *testing.T, seed uint64, steps int) {
	g := &generator{rand.New(rand.NewPCG(seed, 1))}
	x := NewIndex(Options{ByLabel: true})
	objects := map[mesh.Key]*Object{}
	told := map[mesh.Key]config.Resource{}
	for step := range steps {
		var changes []Change
		for range 1 + g.IntN(3) {
			o := g.object(t)
			c := Change{Key: o.Key, Object: o}
			objects[o.Key] = o
			if g.IntN(4) == 0 {
				c.Object = nil
				delete(objects, o.Key)
			}
			changes = append(changes, c)
		}
		for _, u := range x.Apply(changes...) {
			before, had := told[u.Key]
			switch {
			case u.Err != nil:
				t.Fatalf("seed %d: %v", seed, u.Err)
			case u.Value == nil && !had:
				t.Errorf("seed %d step %d: %s is gone, and never was", seed, step, u.Key)
			case u.Value == nil:
				delete(told, u.Key)
			case had && reflect.DeepEqual(before, u.Value):
				t.Errorf("seed %d step %d: %s is told and is as before", seed, step, u.Key)
			default:
				told[u.Key] = u.Value
			}
		}
		if step%3 != 0 { // so that several changes may add up to a difference, too
			continue
		}
		fresh := NewIndex(Options{ByLabel: true})
		for _, o := range objects {
			fresh.Set(o)
		}
		compare(t, fmt.Sprintf("seed %d step %d", seed, step), told, fresh.Resources())
		compare(t, fmt.Sprintf("seed %d step %d, itself", seed, step), x.Resources(), told)
		if t.Failed() {
			for _, c := range changes {
				t.Logf("change %s %s", c.Key, render(c.Object))
			}
			return
		}
	}
}

func compare(t *testing.T, name string, got, want map[mesh.Key]config.Resource) {
	t.Helper()
	for key, w := range want {
		if g := got[key]; !reflect.DeepEqual(g, w) {
			if g == nil {
				t.Errorf("%s: %s is missing", name, key)
			} else {
				t.Errorf("%s: %s\ngot  %s\nwant %s", name, key, render(g), render(w))
			}
		}
	}
	for key := range got {
		if want[key] == nil {
			t.Errorf("%s: %s is too much", name, key)
		}
	}
}

// A generator makes objects out of few names, so that they meet.
type generator struct{ *rand.Rand }

func (g *generator) one(of ...string) string { return of[g.IntN(len(of))] }

func (g *generator) object(t *testing.T) *Object {
	ns := g.one("a", "a", "a", "b", "istio-system")
	meta := func(name string, extra ...string) string {
		return "metadata: {name: " + name + ", namespace: " + ns + ", labels: {" + strings.Join(extra, ", ") + "}}\n"
	}
	var text string
	switch g.IntN(13) {
	case 0:
		text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + ns + ", annotations: {" + g.one("", "istio.io/use-waypoint-canary-weight: \"10\"") + "}, labels: {" +
			g.one("x: z", "istio.io/dataplane-mode: ambient", "istio.io/use-waypoint: w1", "istio.io/use-waypoint: w1, istio.io/use-waypoint-namespace: b, team: t", "istio.io/use-waypoint: w1, istio.io/use-waypoint-canary: w2") + "}}\n"
	case 1:
		text = "apiVersion: v1\nkind: Node\nmetadata: {name: " + g.one("n1", "n2") + ", labels: {topology.kubernetes.io/region: " + g.one("r1", "r2") + "}}\n"
	case 2, 3, 4:
		text = "apiVersion: v1\nkind: Pod\n" + meta(g.one("p1", "p2", "p3"), "app: "+g.one("x", "w"),
			g.one("z: z", "gateway.networking.k8s.io/gateway-name: w1", "istio.io/use-waypoint: w2", "istio.io/gateway-name: w2", "istio.io/dataplane-mode: none")) +
			"spec: {nodeName: " + g.one("n1", "n2") + ", serviceAccountName: " + g.one("s1", "s2") + ", containers: [{name: c, ports: [{name: named, containerPort: " + g.one("1", "2") + "}]}]}\n" +
			"status: {podIP: " + g.one("10.0.0.1", "10.0.0.2", `""`) + "}\n"
	case 5:
		text = "apiVersion: v1\nkind: Service\n" + meta(g.one("v1", "v2"), g.one("z: z", "istio.io/use-waypoint: w1", "istio.io/use-waypoint: none", "istio.io/use-waypoint: w1, istio.io/use-waypoint-canary: w2, istio.io/use-waypoint-canary-namespace: b", "gateway.networking.k8s.io/gateway-name: w2, istio.io/use-waypoint: w1")) +
			"spec: {type: " + g.one("ClusterIP", "ClusterIP", "ExternalName") + ", selector: {" + g.one("app: x", "app: w", "app: x, z: z", "gateway.networking.k8s.io/gateway-name: w1") + "}, ports: [{port: " + g.one("80", "81") + ", targetPort: " + g.one("named", "8080") + "}]}\n"
	case 6:
		text = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: " + g.one("w1", "w2") + ", namespace: " + ns + ", annotations: {" + g.one("", "istio.io/for-service-account: s1", "ambient.istio.io/waypoint-inbound-binding: PROXY/15088") + "}, labels: {" + g.one("", "istio.io/waypoint-for: all", "istio.io/waypoint-for: workload") + "}}\n" +
			"spec: {gatewayClassName: " + g.one("c1", "c2") + ", addresses: [{value: " + g.one("10.9.9.9", "10.9.9.8", `""`) + "}], listeners: [{name: m, port: 15008, protocol: " + g.one("HBONE", "ALL", "HTTP") + ", allowedRoutes: {namespaces: {from: " + g.one("Same", "All", "Selector, selector: {matchLabels: {team: t}}") + "}}}]}\n"
	case 7:
		text = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: " + g.one("c1", "c2") + ", labels: {istio.io/waypoint-for: " + g.one("all", "none", "workload") + "}}\nspec: {controllerName: x}\n"
	case 8:
		text = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n" + meta(g.one("q1", "q2")) +
			"spec: {" + g.one("selector: {matchLabels: {app: x}}, ", "selector: {matchLabels: {app: w}}, ", "selector: {}, ", "") + "rules: [{}]}\n"
	case 9:
		text = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n" + meta(g.one("e1", "e2")) +
			"spec: {" + g.one("", "selector: {matchLabels: {app: x}}, portLevelMtls: {"+g.one("80", "81")+": {mode: "+g.one("STRICT", "PERMISSIVE")+"}}, ") + "mtls: {mode: " + g.one("STRICT", "PERMISSIVE", "UNSET") + "}}\n"
	case 11:
		text = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\n" + meta(g.one("t1", "t2")) +
			"spec: {" + g.one("selector: {matchLabels: {app: x}}, ", "") + "jwtRules: [{issuer: " + g.one("i", "j") + "}]}\n"
	case 12:
		text = "apiVersion: v1\nkind: ConfigMap\n" + meta(g.one("istio", "istio", "istio-old", "rego")) +
			"data: {" + g.one("mesh", "mesh", "else") + ": '{trustDomainAliases: [" + g.one("t", "u") + "], extensionProviders: [{name: " + g.one("x", "z") + ", envoyExtAuthzGrpc: {service: s, port: " + g.one("1", "2") + "}}]}'}\n"
	case 10:
		if g.IntN(2) == 0 {
			text = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n" + meta(g.one("r1", "r2")) +
				"spec: {parentRefs: [{group: \"\", kind: Service, name: v1}], rules: [{backendRefs: [{name: " + g.one("v1", "v2") + ", namespace: " + g.one("a", "b") + ", port: 80}]}]}\n"
			break
		}
		text = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n" + meta(g.one("l1", "l2"), "kubernetes.io/service-name: "+g.one("v1", "v2")) +
			"addressType: IPv4\nports: [{port: 90}]\nendpoints: [{addresses: [" + g.one("10.1.0.1", "10.1.0.2") + "], nodeName: " + g.one("n1", "n2") + "}]\n"
	}
	f := Decode("g.yaml", []byte(text))
	if len(f.Objects) != 1 || f.Objects[0].Err != nil {
		t.Fatalf("%s\n%s", text, render(f))
	}
	return f.Objects[0]
}
