package manifest

import (
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
)

// An Ingress is a Gateway that lets traffic into the mesh, with the routes that
// are attached to it.
type Ingress struct {
	Listeners []Listener
	Routes    []IngressRoute // in the order of their names
}

// A Listener is a port of an Ingress.
type Listener struct {
	Name     string
	Port     uint16
	Protocol string
	Hostname string // "" takes any
}

// An IngressRoute is an HTTPRoute of a Gateway. Its Parents stand for the
// Gateway's listeners: their Service has the Gateway's namespace and name.
type IngressRoute struct {
	Hostnames []string // none takes any
	Route     *routing.Route
}

// Ingress returns what an ingress that is the Gateway has to serve, or nil if
// there is no such Gateway.
func (x *Index) Ingress(gateway mesh.Key) *Ingress {
	g := x.namespace(gateway.Namespace).gateways[gateway.Name]
	if g == nil {
		return nil
	}
	out := &Ingress{}
	for _, l := range g.Spec.Listeners {
		out.Listeners = append(out.Listeners, Listener{
			Name: string(l.Name), Port: uint16(l.Port), Protocol: string(l.Protocol), Hostname: string(value(l.Hostname, "")),
		})
	}
	for namespace, n := range x.namespaces {
		for _, r := range n.routes {
			if parents := parentsOf(r, gateway); len(parents) > 0 && allowsRoutes(g, namespace, n.labels()) {
				c := &converter{o: &x.o, route: r, service: x.hasService}
				route := c.convert()
				route.Parents = parents
				in := IngressRoute{Route: route}
				for _, h := range r.Spec.Hostnames {
					in.Hostnames = append(in.Hostnames, string(h))
				}
				out.Routes = append(out.Routes, in)
			}
		}
	}
	slices.SortFunc(out.Routes, func(a, b IngressRoute) int { return compareKeys(a.Route.Key(), b.Route.Key()) })
	return out
}

func parentsOf(r *gatewayv1.HTTPRoute, gateway mesh.Key) []routing.Parent {
	var out []routing.Parent
	for _, p := range r.Spec.ParentRefs {
		namespace := string(value(p.Namespace, gatewayv1.Namespace(r.Namespace)))
		if isGateway(p) && namespace == gateway.Namespace && string(p.Name) == gateway.Name {
			out = append(out, routing.Parent{
				Service: mesh.Hostname{Namespace: gateway.Namespace, Host: gateway.Name},
				Port:    uint16(value(p.Port, 0)),
				Section: string(value(p.SectionName, "")),
			})
		}
	}
	return out
}

// allowsRoutes reports whether any listener takes routes of a namespace.
func allowsRoutes(g *gatewayv1.Gateway, namespace string, labels map[string]string) bool {
	return slices.ContainsFunc(g.Spec.Listeners, func(l gatewayv1.Listener) bool {
		return allows(&l, g.Namespace, namespace, labels)
	})
}
