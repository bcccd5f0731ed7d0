package meshtest

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// AppPort is where the application of a workload listens.
const AppPort = 8080

// A Workload is a pod, with the service account and the label app of its name.
type Workload struct {
	m         *Mesh
	Namespace string
	Name      string
	IP        netip.Addr
	node      string
	account   string
	labels    string // further ones, each after a comma
	closers   []func()
}

// Workload adds a ready pod, named as in "default/web". Pods stand on the two
// nodes by turns.
func (m *Mesh) Workload(name string) *Workload {
	m.t.Helper()
	w := m.newWorkload(name)
	m.Apply(w.yaml(true, ""))
	return w
}

// WorkloadOn is Workload on a node of the caller's choice.
func (m *Mesh) WorkloadOn(node, name string) *Workload {
	m.t.Helper()
	w := m.newWorkload(name)
	w.node = node
	m.Apply(w.yaml(true, ""))
	return w
}

func (m *Mesh) newWorkload(name string) *Workload {
	ns, name := split(name)
	m.nextIP++
	account, _, _ := strings.Cut(name, ".")
	w := &Workload{m: m, Namespace: ns, Name: name, IP: m.net.Addr(m.nextIP), node: "node-a", account: account}
	if m.nextIP%2 == 0 {
		w.node = "node-b"
	}
	m.workloads[ns+"/"+name] = w
	return w
}

// Ready says that the pod is ready, or that it is not.
func (w *Workload) Ready(ready bool) *Workload {
	w.m.t.Helper()
	w.m.Apply(w.yaml(ready, w.labels))
	return w
}

// Label adds a label to the pod: `tier: gold`.
func (w *Workload) Label(l string) *Workload {
	w.m.t.Helper()
	w.labels = ", " + l
	return w.Ready(true)
}

// Account has the pod run as another service account.
func (w *Workload) Account(name string) *Workload {
	w.m.t.Helper()
	w.account = name
	return w.Ready(true)
}

// Remove deletes the pod. Its application is not stopped.
func (w *Workload) Remove() {
	w.m.t.Helper()
	w.m.Delete("Pod/" + w.Namespace + "/" + w.Name)
}

func (w *Workload) yaml(ready bool, labels string) string {
	status := "False"
	if ready {
		status = "True"
	}
	app, _, _ := strings.Cut(w.Name, ".")
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[2]s, namespace: %[1]s, labels: {app: %[7]s, version: v1%[6]s}}
spec: {nodeName: %[3]s, serviceAccountName: %[8]s, containers: [{name: app, image: app, ports: [{containerPort: 8080}]}]}
status:
  phase: Running
  podIP: %[4]s
  podIPs: [{ip: %[4]s}]
  conditions: [{type: Ready, status: "%[5]s"}]
`, w.Namespace, w.Name, w.node, w.IP, status, labels, app, w.account)
}

// ID is the workload's identity.
func (w *Workload) ID() identity.ID {
	return identity.ID{TrustDomain: TrustDomain, Namespace: w.Namespace, ServiceAccount: w.account}
}

// Listen opens a port of the workload's application.
func (w *Workload) Listen(port uint16) net.Listener {
	w.m.t.Helper()
	ln, err := w.m.net.Listen(netip.AddrPortFrom(w.IP, port))
	if err != nil {
		w.m.t.Fatal(err)
	}
	w.closers = append(w.closers, func() { ln.Close() })
	return ln
}

// Serve runs an HTTP server as the workload's application, for HTTP/1.1 and
// HTTP/2 with prior knowledge.
func (w *Workload) Serve(h http.HandlerFunc) *Workload {
	w.m.t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{Handler: h, Protocols: protocols}
	ln := w.Listen(AppPort)
	w.m.running.Go(func() { _ = srv.Serve(ln) })
	w.closers = append(w.closers, func() { srv.Close() })
	return w
}

// Close ends the pod's application, and the connections of Connect.
func (w *Workload) Close() {
	for _, f := range w.closers {
		f()
	}
	w.closers = nil
}

// A Service is a Kubernetes Service.
type Service struct {
	m         *Mesh
	Namespace string
	Name      string
	IP        netip.Addr
	port      int
	protocol  string
	labels    string
	selector  string
}

// Service adds the Service of the workloads whose label app is its name; its
// port leads to AppPort, and declares HTTP.
func (m *Mesh) Service(name string, port int) *Service {
	m.t.Helper()
	ns, name := split(name)
	m.nextIP++
	s := &Service{m: m, Namespace: ns, Name: name, port: port, IP: vipAddr(m.nextIP), protocol: "http", selector: name}
	s.apply()
	return s
}

// vipAddr is an address that nobody listens on.
func vipAddr(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 96, byte(n >> 8), byte(n)}) }

// Protocol sets the appProtocol of the port: "" is undeclared.
func (s *Service) Protocol(p string) *Service {
	s.m.t.Helper()
	s.protocol = p
	s.apply()
	return s
}

// Label sets a label: `istio.io/use-waypoint: waypoint`.
func (s *Service) Label(l string) *Service {
	s.m.t.Helper()
	s.labels = l
	s.apply()
	return s
}

// Waypoint puts the waypoint "waypoint" of the namespace before the Service,
// and starts it if it is not there.
func (s *Service) Waypoint() *Service {
	s.m.t.Helper()
	s.m.Waypoint(s.Namespace+"/waypoint", "service")
	return s.Label("istio.io/use-waypoint: waypoint")
}

func (s *Service) apply() {
	s.m.t.Helper()
	protocol := ""
	if s.protocol != "" {
		protocol = ", appProtocol: " + s.protocol
	}
	s.m.Apply(fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %[2]s, namespace: %[1]s, labels: {%[3]s}}
spec:
  clusterIP: %[4]s
  clusterIPs: [%[4]s]
  selector: {app: %[8]s}
  ports: [{name: main, port: %[5]d, targetPort: %[6]d%[7]s}]
`, s.Namespace, s.Name, s.labels, s.IP, s.port, AppPort, protocol, s.selector))
}

// Waypoint adds a Gateway for traffic of a kind ("service", "workload", "all"),
// and runs it, if it is not there.
func (m *Mesh) Waypoint(name, traffic string) *Workload {
	m.t.Helper()
	ns, name := split(name)
	key := mesh.Key{Kind: "Gateway", Namespace: ns, Name: name}
	if m.objects[key] {
		return m.workloads[ns+"/"+name]
	}
	w := m.newWorkload(ns + "/" + name)
	m.runWaypoint(key, w)
	m.gateway(key, w.IP, traffic)
	return w
}

func split(name string) (namespace, rest string) {
	if ns, rest, ok := strings.Cut(name, "/"); ok {
		return ns, rest
	}
	return "default", name
}
