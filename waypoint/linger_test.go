package waypoint

import (
	"errors"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/manifest"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

const lingerRoute = `
apiVersion: v1
kind: Service
metadata: {name: other, namespace: default}
spec:
  clusterIP: 10.96.0.2
  clusterIPs: [10.96.0.2]
  selector: {app: items}
  ports: [{name: main, port: 80, targetPort: 8080}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: items, namespace: default}
spec:
  parentRefs: [{kind: Service, group: "", name: items}]
  rules: [{backendRefs: [{name: other, port: 80}]}]
`

// TestLingersWithoutItsBackend takes a service from us together with its route and
// the route's backend, while a client has not heard: it is served as if there had
// been no route.
func TestLingersWithoutItsBackend(t *testing.T) {
	r := newRig(t, nil)
	r.apply(strings.ReplaceAll(rigConfig, "name: main", "name: http-main") + "---" + lingerRoute +
		"---" + strings.NewReplacer("NAME", "a", "ADDRESS", "10.0.0.1").Replace(rigPod))
	var w *wire
	r.do(func() { w = r.open() })

	unlabelled := strings.ReplaceAll(rigConfig, ", labels: {istio.io/use-waypoint: waypoint}", "")
	index := manifest.NewIndex(manifest.Options{ByLabel: true})
	var changes []manifest.Change
	for _, o := range manifest.Decode("rig.yaml", []byte(unlabelled)).Objects {
		changes = append(changes, manifest.Change{Key: o.Key, Object: o})
	}
	updates := append(index.Apply(changes...),
		config.Update{Key: mesh.Key{Kind: "HTTPRoute", Namespace: "default", Name: "items"}},
		config.Update{Key: mesh.Key{Kind: "Service", Namespace: "default", Name: "other.default.svc.cluster.local"}})
	if err := r.store.Apply(updates); err != nil {
		t.Fatal(err)
	}

	r.do(func() { w.arrive("GET /late HTTP/1.1\r\nHost: items\r\n\r\n") })
	if len(r.dials) != 1 {
		t.Fatalf("%d connections were dialled, want 1; the client got %q", len(r.dials), w.out)
	}
	r.do(func() { r.dials[0].connected() })
	r.do(func() {
		if got := string(r.dials[0].leg.out); !strings.HasPrefix(got, "GET /late HTTP/1.1\r\n") {
			t.Errorf("the endpoint got %q", got)
		}
		w.peerReset(errors.New("over"))
	})
	r.wantNothingLeft()
}
