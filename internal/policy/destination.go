package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A destination is what a client dials, and where that leads.
type destination struct {
	name      string // for people
	host      string // what a client would call it
	authority mesh.Authority
	service   *mesh.Service
	workload  *mesh.Workload
	gateway   mesh.Key // the waypoint before it; zero: none
	assumed   []string
	more      []config.Update // what was made up, to be had in every view
}

// destination finds what a request is to.
func (m *Mesh) destination(r *Request) (*destination, error) {
	kind, ns, name, port, err := splitTarget(r.To)
	if err != nil {
		return nil, err
	}
	if r.Port != 0 {
		port = r.Port
	}
	d := &destination{}
	switch kind {
	case "Service":
		err = m.toService(d, ns, name, port, r)
	case "Gateway":
		err = m.toGateway(d, mesh.Key{Kind: "Gateway", Namespace: ns, Name: name}, port, r)
	case "Workload", "Pod":
		err = m.toWorkload(d, ns, name, port, r)
	default:
		err = m.toAddress(d, name, port)
	}
	if err != nil {
		return nil, err
	}
	if r.Waypoint == (mesh.Key{}) {
		d.mentionCanary(m)
	} else {
		k := mesh.Key{Kind: "Gateway", Namespace: r.Waypoint.Namespace, Name: r.Waypoint.Name}
		if d.gateway != k {
			d.assume("the request goes through the waypoint %s/%s, as --waypoint says", k.Namespace, k.Name)
			d.through(m, k)
		}
	}
	return d, nil
}

// mentionCanary says that there is another way to a service, of which the answer is
// not about.
func (d *destination) mentionCanary(m *Mesh) {
	if d.service == nil {
		return
	}
	for i := range d.service.Canary {
		c := &d.service.Canary[i]
		if k, ok := m.gatewayAt(&c.Waypoint); ok && k != d.gateway && c.Weight > 0 {
			d.assume("the connection is not one of the %d %% that go through the waypoint %s/%s", c.Weight, k.Namespace, k.Name)
		}
	}
}

func (d *destination) assume(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if text != "" && !slices.Contains(d.assumed, text) {
		d.assumed = append(d.assumed, text)
	}
}

// splitTarget reads what a request is to.
func splitTarget(to string) (kind, ns, name string, port uint16, err error) {
	if to == "" {
		return "", "", "", 0, errors.New("to: it is not said what the request is to: Service/ns/name, Gateway/ns/name, Workload/ns/name, an address or a host name")
	}
	parts := strings.Split(to, "/")
	name = parts[len(parts)-1]
	if ip, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		return "", "", ip.String(), 0, nil
	}
	if i := strings.LastIndexByte(name, ':'); i >= 0 {
		n, err := strconv.ParseUint(name[i+1:], 10, 16)
		if err != nil || n == 0 {
			return "", "", "", 0, fmt.Errorf("to: %q: the port %q is not 1 to 65535", to, name[i+1:])
		}
		name, port = strings.Trim(name[:i], "[]"), uint16(n)
	}
	switch {
	case len(parts) == 1:
		return "", "", name, port, nil
	case len(parts) != 3 || parts[1] == "" || name == "":
		return "", "", "", 0, fmt.Errorf("to: %q is not of the form kind/namespace/name", to)
	}
	for _, kind := range []string{"Service", "Gateway", "Workload", "Pod"} {
		if strings.EqualFold(parts[0], kind) {
			return kind, parts[1], name, port, nil
		}
	}
	return "", "", "", 0, fmt.Errorf("to: %q is none of Service, Gateway, Workload and Pod", parts[0])
}

func (m *Mesh) toService(d *destination, ns, name string, port uint16, r *Request) error {
	for s := range m.view(node).Services() {
		if s.Namespace == ns && s.Name == name {
			m.dials(d, s, port)
			return nil
		}
	}
	if !m.bare {
		return fmt.Errorf("to: there is no Service %s/%s in the manifests", ns, name)
	}
	d.assume("there is a Service %s/%s: the files have nothing but policies", ns, name)
	d.makeUp(m, ns, name, port, r, mesh.Key{})
	return nil
}

// dials has the client dial a service by its first address, or if it has none by
// name.
func (m *Mesh) dials(d *destination, s *mesh.Service, port uint16) {
	if port == 0 && len(s.Ports) > 0 {
		i := max(0, slices.IndexFunc(s.Ports, func(p mesh.Port) bool { return p.Protocol.IsHTTP() }))
		if port = s.Ports[i].Service; len(s.Ports) > 1 {
			d.assume("the port is %d, of several", port)
		}
	}
	d.name, d.host, d.service = "Service "+s.Namespace+"/"+s.Name, s.Name, s
	d.authority = mesh.Authority{Host: s.Hostname, Port: port}
	if len(s.Addresses) > 0 {
		d.authority = mesh.Authority{IP: s.Addresses[0].Prefix.Addr(), Port: port}
	}
	d.assume("%s", m.note("Service", s.Namespace, s.Name))
	if g, ok := m.gatewayAt(s.Waypoint); ok {
		d.gateway = g
		d.assume("%s", m.note("Gateway", g.Namespace, g.Name))
	}
}

// makeUp has there be a service, behind the waypoint that policies name if they
// name one.
func (d *destination) makeUp(m *Mesh, ns, name string, port uint16, r *Request, gateway mesh.Key) {
	if port == 0 {
		port = 80
		if r.TCP {
			port = 3306
		}
	}
	if gateway == (mesh.Key{}) {
		gateway = mesh.Key{Kind: "Gateway", Namespace: ns, Name: "waypoint"}
		for _, p := range m.view(node).Policies() {
			for _, ref := range p.TargetRefs {
				if ref.Kind == "Gateway" && p.Namespace == ns {
					gateway.Name = ref.Name
				}
			}
		}
	}
	s := &mesh.Service{Name: name, Namespace: ns, Hostname: name + "." + ns + ".svc.cluster.local", Canonical: true,
		Addresses: []mesh.Prefix{{Prefix: netip.PrefixFrom(assumedServices, assumedServices.BitLen())}},
		Ports:     []mesh.Port{{Service: port, Target: port, Protocol: mesh.HTTP1}}}
	if r.TCP {
		s.Ports[0].Protocol = mesh.TCP
	}
	d.name, d.host, d.service = "Service "+ns+"/"+name, name, s
	d.authority = mesh.Authority{IP: s.Addresses[0].Prefix.Addr(), Port: port}
	d.more = append(d.more, config.Update{Value: s})
	d.assume("its waypoint is %s/%s, and its port %d", gateway.Namespace, gateway.Name, port)
	d.through(m, gateway)
}

// through has the destination be behind a waypoint, which is made up if it is
// not there.
func (d *destination) through(m *Mesh, gateway mesh.Key) {
	d.gateway = gateway
	gw := &config.Gateway{Namespace: gateway.Namespace, Name: gateway.Name, Class: "istio-waypoint", For: config.ForAll,
		Addresses: []mesh.GatewayAddress{{Address: mesh.Address{IP: assumedPods}, Port: 15008}}}
	for _, g := range m.view(node).Gateways() {
		if g.Namespace == gateway.Namespace && g.Name == gateway.Name && len(g.Addresses) > 0 {
			gw = g
		}
	}
	d.more = append(d.more, config.Update{Value: gw})
	switch {
	case d.service != nil:
		s := *d.service
		s.Waypoint = &gw.Addresses[0]
		d.service = &s
		d.more = append(d.more, config.Update{Value: &s})
	case d.workload != nil:
		w := *d.workload
		w.Waypoint = &gw.Addresses[0]
		d.workload = &w
		d.more = append(d.more, config.Update{Value: &w})
	}
}

// toGateway has the client dial something behind a waypoint that no policy is
// attached to by itself.
func (m *Mesh) toGateway(d *destination, k mesh.Key, port uint16, r *Request) error {
	there := slices.ContainsFunc(m.view(node).Gateways(), func(g *config.Gateway) bool { return g.Namespace == k.Namespace && g.Name == k.Name })
	if !there && !m.bare {
		return fmt.Errorf("to: there is no waypoint %s/%s in the manifests", k.Namespace, k.Name)
	}
	d.assume("the request is to a Service behind the waypoint to which no policy is attached by itself")
	d.makeUp(m, k.Namespace, "any", port, r, k)
	d.name, d.host = "Gateway "+k.Namespace+"/"+k.Name, "any"
	return nil
}

func (m *Mesh) toWorkload(d *destination, ns, name string, port uint16, r *Request) error {
	for w := range m.view(node).Workloads() {
		if w.Namespace == ns && w.Name == name {
			m.dialsPod(d, w, port)
			return nil
		}
	}
	if !m.bare {
		return fmt.Errorf("to: there is no pod %s/%s in the manifests", ns, name)
	}
	w := &mesh.Workload{UID: "Kubernetes//Pod/" + ns + "/" + name, Name: name, Namespace: ns, TrustDomain: m.trustDomain(), Tunnel: mesh.HBONE,
		Addresses: []netip.Addr{assumedPods.Next()}}
	for _, p := range m.view(node).Policies() {
		if app := p.Selector["app"]; p.Namespace == ns && len(p.Selector) == 1 && app == name {
			w.Policies = append(w.Policies, p.Key())
		}
	}
	d.assume("there is a pod %s/%s with the label app=%s: the files have nothing but policies", ns, name, name)
	d.more = append(d.more, config.Update{Value: w})
	m.dialsPod(d, w, port)
	return nil
}

func (m *Mesh) dialsPod(d *destination, w *mesh.Workload, port uint16) {
	if port == 0 {
		port = portOf(m.view(node), w)
		d.assume("the port is %d", port)
	}
	d.name, d.host, d.workload = "pod "+w.Namespace+"/"+w.Name, w.Name, w
	if len(w.Addresses) > 0 {
		d.authority = mesh.Authority{IP: w.Addresses[0], Port: port}
		d.host = w.Addresses[0].String()
	}
	d.assume("%s", m.note("Pod", w.Namespace, w.Name))
	d.assume("%s", m.note("Namespace", "", w.Namespace))
	if g, ok := m.gatewayAt(w.Waypoint); ok {
		d.gateway = g
	}
}

// portOf returns a port where a workload listens for a service.
func portOf(v *view, w *mesh.Workload) uint16 {
	ports := []uint16{}
	for host := range w.Services {
		if s := v.Service(host); s != nil {
			for _, p := range s.Ports {
				ports = append(ports, s.TargetPort(w, p.Service))
			}
		}
	}
	slices.Sort(ports)
	for _, p := range ports {
		if p != 0 {
			return p
		}
	}
	return 80
}

// toAddress has the client dial an address or a host name.
func (m *Mesh) toAddress(d *destination, host string, port uint16) error {
	a := mesh.Authority{Host: strings.ToLower(host), Port: port}
	if ip, err := netip.ParseAddr(host); err == nil {
		a = mesh.Authority{IP: ip, Port: port}
	}
	found := m.view(node).Lookup("", "", a)
	if found == nil && !a.IP.IsValid() {
		found = m.byShortName(a)
	}
	switch {
	case found == nil:
		return fmt.Errorf("to: nothing in the manifests has the address or the name %s", host)
	case found.Service != nil:
		m.dials(d, found.Service, port)
		if a.IP.IsValid() {
			d.authority.IP, d.authority.Host = a.IP, ""
		}
		d.host = host
	default:
		m.dialsPod(d, found.Workload, port)
	}
	return nil
}

// byShortName looks for a service by name.namespace, or by a name that only one
// has.
func (m *Mesh) byShortName(a mesh.Authority) *config.Destination {
	var found *mesh.Service
	for s := range m.view(node).Services() {
		switch {
		case a.Host == s.Name+"."+s.Namespace, a.Host == s.Name+"."+s.Namespace+".svc":
		case a.Host == s.Name && (found == nil || found == s):
		case a.Host == s.Name:
			return nil
		default:
			continue
		}
		found = s
	}
	if found == nil {
		return nil
	}
	return &config.Destination{Service: found}
}
