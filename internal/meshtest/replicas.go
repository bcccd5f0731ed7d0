package meshtest

import (
	"fmt"
	"net/netip"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// Waypoints is Waypoint with several replicas behind the Gateway's Service. They
// are stopped by the names of their pods: "waypoint.0".
func (m *Mesh) Waypoints(name, traffic string, n int) (pods []*Workload) {
	m.t.Helper()
	ns, name := split(name)
	key := mesh.Key{Kind: "Gateway", Namespace: ns, Name: name}
	for i := range n {
		w := m.newWorkload(fmt.Sprintf("%s/%s.%d", ns, name, i))
		m.runWaypoint(key, w)
		m.programs[len(m.programs)-1].name = "waypoint " + w.Name
		pods = append(pods, w)
	}
	m.nextIP++
	vip := vipAddr(m.nextIP)
	m.Apply(fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %[2]s, namespace: %[1]s}
spec:
  clusterIP: %[3]s
  clusterIPs: [%[3]s]
  selector: {gateway.networking.k8s.io/gateway-name: %[2]s}
  ports: [{name: hbone, port: 15008, appProtocol: hbone}]
`, ns, name, vip))
	m.gateway(key, vip, traffic)
	return pods
}

// runWaypoint adds a pod of a Gateway's and runs a waypoint in it.
func (m *Mesh) runWaypoint(gateway mesh.Key, w *Workload) {
	m.t.Helper()
	w.labels = ", gateway.networking.k8s.io/gateway-name: " + gateway.Name +
		", gateway.istio.io/managed: istio.io-mesh-controller, istio.io/dataplane-mode: none, networking.istio.io/tunnel: http"
	w.Ready(true)
	m.startWaypoint(gateway, w.IP, w.account)
}

func (m *Mesh) gateway(key mesh.Key, address netip.Addr, traffic string) {
	m.t.Helper()
	m.Apply(fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: %[2]s, namespace: %[1]s, labels: {istio.io/waypoint-for: %[4]s}}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
status:
  addresses: [{type: IPAddress, value: %[3]s}]
`, key.Namespace, key.Name, address, traffic))
}

// Hold keeps what changes from a program, "waypoint NAME" or "ztunnel NODE",
// until release is called.
func (m *Mesh) Hold(name string) (release func()) {
	m.t.Helper()
	for _, p := range m.programs {
		if p.name == name {
			p.held = true
			return func() {
				p.held = false
				late := p.late
				p.late = nil
				_ = p.store.Apply(late)
			}
		}
	}
	m.t.Fatalf("there is no %q", name)
	return nil
}
