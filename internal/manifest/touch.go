package manifest

import (
	clientv1 "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// What an object touches is written down here, and nowhere else: every function
// of build.go that looks at another object has its counterpart in touch. The
// test that compares a long history with a fresh Index finds what is forgotten.

// replace puts a new version of an object, or nil, in place of the old one.
// Whatever either of them touches is looked at again.
func (x *Index) replace(key mesh.Key, value any) {
	if old := x.object(key); old != nil {
		x.link(key, old, false)
		x.touch(key, old)
	}
	switch v := value.(type) {
	case *policyObject:
		value = &policy{Policy: v.policy(key)}
	case *tokensObject:
		value = v.tokens(key)
	}
	x.store(key, value)
	x.mark(key)
	if value != nil {
		x.link(key, value, true)
		x.touch(key, value)
	}
}

func (x *Index) mark(key mesh.Key) { x.dirty[key] = struct{}{} }

// touch marks what an object concerns, itself excepted.
func (x *Index) touch(key mesh.Key, value any) {
	ns := x.namespace(key.Namespace)
	switch v := value.(type) {
	case *corev1.Node:
		for k := range x.onNode[key.Name] {
			x.mark(k)
		}
	case *corev1.Namespace:
		x.touchNamespace(key.Name)
	case *corev1.Pod:
		if len(ns.accountWaypoints()) > 0 {
			for _, s := range ns.selecting(v.Labels) {
				x.mark(mesh.Key{Kind: kindService, Namespace: key.Namespace, Name: s.Name})
			}
		}
	case *corev1.Service:
		x.touchService(ns, v)
	case *gatewayv1.GatewayClass:
		for _, n := range x.namespaces {
			for _, w := range n.waypoints {
				if w.Class == key.Name {
					x.mark(gatewayKey(w.gateway))
					x.touchGateway(n, w.gateway)
				}
			}
		}
	case *gatewayv1.Gateway:
		x.touchGateway(ns, v)
	case *policy:
		x.touchPolicy(key.Namespace, v)
	case *clientv1.PeerAuthentication:
		x.touchPeer(key.Namespace)
	case *configMap:
		x.mark(meshKey) // it is MeshConfig, or may be named there
	}
}

func (x *Index) touchNamespace(name string) {
	n := x.namespace(name)
	for _, p := range n.pods {
		x.mark(mesh.Key{Kind: kindPod, Namespace: name, Name: p.Name})
	}
	for _, s := range n.services {
		x.mark(mesh.Key{Kind: kindService, Namespace: name, Name: s.Name})
	}
}

func (x *Index) touchService(ns *namespace, s *corev1.Service) {
	for _, p := range ns.matching(s.Spec.Selector) {
		x.mark(mesh.Key{Kind: kindPod, Namespace: s.Namespace, Name: p.Name})
	}
	for _, e := range ns.slices {
		if e.Labels[labelServiceName] == s.Name {
			x.mark(mesh.Key{Kind: kindEndpointSlice, Namespace: e.Namespace, Name: e.Name})
		}
	}
	for k := range x.backends[mesh.Key{Kind: kindService, Namespace: s.Namespace, Name: s.Name}] {
		x.mark(k)
	}
}

// touchGateway marks those that name a Gateway, those that are part of it, and
// all of its namespace if it is for a service account.
func (x *Index) touchGateway(ns *namespace, g *gatewayv1.Gateway) {
	for k := range x.users[gatewayKey(g)] {
		if k.Kind == kindNamespace {
			x.touchNamespace(k.Name)
		} else {
			x.mark(k)
		}
	}
	if g.Annotations[annotationAccount] != "" {
		x.touchNamespace(g.Namespace)
		return
	}
	for _, label := range []string{labelGatewayName, labelOldGatewayName} {
		for _, p := range ns.matching(map[string]string{label: g.Name}) {
			x.mark(mesh.Key{Kind: kindPod, Namespace: g.Namespace, Name: p.Name})
		}
	}
	for _, s := range ns.services {
		if gatewayOf(s.Labels) == g.Name || gatewayOf(s.Spec.Selector) == g.Name {
			x.mark(mesh.Key{Kind: kindService, Namespace: g.Namespace, Name: s.Name})
		}
	}
}

func (x *Index) touchPolicy(namespace string, p *policy) {
	if !listed(p) {
		return
	}
	for name, n := range x.namespaces {
		if name != namespace && namespace != x.o.RootNamespace {
			continue
		}
		for _, pod := range n.pods {
			if len(p.Selector) == 0 || selects(p.Selector, pod.Labels) {
				x.mark(mesh.Key{Kind: kindPod, Namespace: name, Name: pod.Name})
			}
		}
	}
}

func (x *Index) touchPeer(namespace string) {
	x.peers = true
	for name, n := range x.namespaces {
		if name != namespace && namespace != x.o.RootNamespace {
			continue
		}
		for _, p := range n.pods {
			x.mark(mesh.Key{Kind: kindPod, Namespace: name, Name: p.Name})
		}
		for _, p := range n.peers {
			x.mark(mesh.Key{Kind: kindPeer, Namespace: name, Name: p.Name})
		}
	}
}

// link enters an object, or takes it out, under what it names.
func (x *Index) link(key mesh.Key, object any, in bool) {
	switch v := object.(type) {
	case *corev1.Namespace:
		x.linkGateway(key, v.Labels, key.Name, in)
	case *corev1.Pod:
		x.linkGateway(key, v.Labels, key.Namespace, in)
		if v.Spec.NodeName != "" {
			enter(x.onNode, v.Spec.NodeName, key, in)
		}
	case *corev1.Service:
		x.linkGateway(key, v.Labels, key.Namespace, in)
	case *discoveryv1.EndpointSlice:
		for _, e := range v.Endpoints {
			if e.NodeName != nil {
				enter(x.onNode, *e.NodeName, key, in)
			}
		}
	case *gatewayv1.HTTPRoute:
		for i := range v.Spec.Rules {
			for _, b := range v.Spec.Rules[i].BackendRefs {
				service := mesh.Key{Kind: kindService, Namespace: string(value(b.Namespace, gatewayv1.Namespace(key.Namespace))), Name: string(b.Name)}
				enter(x.backends, service, key, in)
			}
		}
	}
}

func (x *Index) linkGateway(key mesh.Key, labels map[string]string, namespace string, in bool) {
	if ref, ok := waypointRef(labels, namespace); ok && ref.Name != "" {
		enter(x.users, ref, key, in)
	}
	if ref, ok := canaryRef(labels, namespace); ok {
		enter(x.users, ref, key, in)
	}
}

func enter[K comparable](m map[K]set, under K, key mesh.Key, in bool) {
	s := m[under]
	switch {
	case in && s == nil:
		m[under] = set{key: {}}
	case in:
		s[key] = struct{}{}
	default:
		if delete(s, key); len(s) == 0 {
			delete(m, under)
		}
	}
}

func gatewayKey(g *gatewayv1.Gateway) mesh.Key {
	return mesh.Key{Kind: kindGateway, Namespace: g.Namespace, Name: g.Name}
}
