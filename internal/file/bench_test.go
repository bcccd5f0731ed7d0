package file

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/manifest"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

const meshManifest = `apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: default}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
status: {addresses: [{type: IPAddress, value: 10.0.0.9}]}
`

// serviceManifest is a service with a pod, a route and a policy. @ is its number.
const serviceManifest = `apiVersion: v1
kind: Service
metadata:
  name: svc-@
  namespace: default
  labels:
    istio.io/use-waypoint: waypoint
    app: svc-@
spec:
  clusterIP: 10.96.1.@
  clusterIPs:
  - 10.96.1.@
  selector:
    app: svc-@
  ports:
  - name: http
    port: 80
    targetPort: 8080
---
apiVersion: v1
kind: Pod
metadata:
  name: svc-@-v1
  namespace: default
  labels:
    app: svc-@
    version: v1
spec:
  nodeName: node-a
  serviceAccountName: svc-@
  containers:
  - name: app
    image: app
    ports:
    - containerPort: 8080
status:
  phase: Running
  podIP: 10.1.1.@
  podIPs:
  - ip: 10.1.1.@
  conditions:
  - type: Ready
    status: "True"
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: route-@
  namespace: default
spec:
  parentRefs:
  - kind: Service
    group: ""
    name: svc-@
    port: 80
  rules:
  - matches:
    - path:
        type: PathPrefix
        value: /api
      headers:
      - name: x-version
        value: v1
    backendRefs:
    - name: svc-@
      port: 80
  - backendRefs:
    - name: svc-@
      port: 80
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: allow-@
  namespace: default
spec:
  targetRefs:
  - kind: Service
    group: ""
    name: svc-@
  action: ALLOW
  rules:
  - from:
    - source:
        principals:
        - cluster.local/ns/default/sa/web
    to:
    - operation:
        methods: [GET, POST]
        paths: ["/api/*", "/"]
`

// BenchmarkStart reads 100 services from a directory, each with a pod, a route
// and a policy, into an empty store: what a program does before it is ready.
func BenchmarkStart(b *testing.B) {
	const services = 100
	dir := b.TempDir()
	put(b, dir, "mesh.yaml", meshManifest)
	for n := range services {
		put(b, dir, fmt.Sprintf("svc-%d.yaml", n), strings.ReplaceAll(serviceManifest, "@", strconv.Itoa(n)))
	}
	b.ReportAllocs()
	for b.Loop() {
		s := New(Options{Path: dir, Manifest: manifest.Options{ByLabel: true}})
		names, err := s.list()
		if err != nil {
			b.Fatal(err)
		}
		store := config.NewStore(config.Options{Gateway: mesh.Key{Kind: "Gateway", Namespace: "default", Name: "waypoint"}})
		s.look(store, names, nil, true)
		store.Synced()
		if p := s.Problems(); len(p) > 0 {
			b.Fatal(p[0].Err)
		}
		if d := store.Snapshot().Lookup("", "default", mesh.Authority{Host: "svc-7.default.svc.cluster.local", Port: 80}); d == nil || !d.Attached || len(d.Endpoints) != 1 {
			b.Fatalf("got %+v", d)
		}
	}
}
