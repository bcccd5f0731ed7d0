package manifest

import (
	"cmp"
	"slices"

	clientv1 "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A namespace holds the objects of one namespace, by name. It is there whether
// or not its own object is.
type namespace struct {
	object     *corev1.Namespace
	pods       map[string]*corev1.Pod
	services   map[string]*corev1.Service
	slices     map[string]*discoveryv1.EndpointSlice
	gateways   map[string]*gatewayv1.Gateway
	routes     map[string]*gatewayv1.HTTPRoute
	policies   map[string]*policy
	peers      map[string]*clientv1.PeerAuthentication
	tokens     map[string]*jwt.RequestAuthentication
	accounts   map[string]*corev1.ServiceAccount
	configMaps map[string]*configMap
	waypoints  map[string]*waypoint // those of gateways that are waypoints

	byLabel    map[pair]map[string]*corev1.Pod     // pods, under each of their labels
	bySelector map[pair]map[string]*corev1.Service // services, under one label of their selector
}

type pair struct{ name, value string }

// namespace returns the namespace of that name.
func (x *Index) namespace(name string) *namespace {
	n := x.namespaces[name]
	if n == nil {
		n = &namespace{
			pods:       map[string]*corev1.Pod{},
			services:   map[string]*corev1.Service{},
			slices:     map[string]*discoveryv1.EndpointSlice{},
			gateways:   map[string]*gatewayv1.Gateway{},
			routes:     map[string]*gatewayv1.HTTPRoute{},
			policies:   map[string]*policy{},
			peers:      map[string]*clientv1.PeerAuthentication{},
			tokens:     map[string]*jwt.RequestAuthentication{},
			accounts:   map[string]*corev1.ServiceAccount{},
			configMaps: map[string]*configMap{},
			waypoints:  map[string]*waypoint{},
			byLabel:    map[pair]map[string]*corev1.Pod{},
			bySelector: map[pair]map[string]*corev1.Service{},
		}
		x.namespaces[name] = n
	}
	return n
}

func (n *namespace) labels() map[string]string {
	if n.object == nil {
		return nil
	}
	return n.object.Labels
}

// object returns the stored version of an object, or nil.
func (x *Index) object(key mesh.Key) any {
	n := x.namespace(key.Namespace)
	switch key.Kind {
	case kindNode:
		return stored(x.nodes, key.Name)
	case kindGatewayClass:
		return stored(x.classes, key.Name)
	case kindNamespace:
		if o := x.namespace(key.Name).object; o != nil {
			return o
		}
		return nil
	case kindServiceAccount:
		return stored(n.accounts, key.Name)
	case kindPod:
		return stored(n.pods, key.Name)
	case kindService:
		return stored(n.services, key.Name)
	case kindEndpointSlice:
		return stored(n.slices, key.Name)
	case kindGateway:
		return stored(n.gateways, key.Name)
	case kindHTTPRoute:
		return stored(n.routes, key.Name)
	case kindPolicy:
		return stored(n.policies, key.Name)
	case kindPeer:
		return stored(n.peers, key.Name)
	case kindTokens:
		return stored(n.tokens, key.Name)
	case kindConfigMap:
		return stored(n.configMaps, key.Name)
	case config.MeshKind:
		if x.meshFile != nil {
			return x.meshFile
		}
	}
	return nil
}

// stored returns what is in m, and not an interface that holds a nil pointer.
func stored[T any](m map[string]*T, name string) any {
	if v, ok := m[name]; ok {
		return v
	}
	return nil
}

// store puts an object, or nil, in its place. Waypoints are made here, and not
// with the other resources, because the others look at them.
func (x *Index) store(key mesh.Key, value any) {
	n := x.namespace(key.Namespace)
	switch key.Kind {
	case kindNode:
		put(x.nodes, key.Name, value)
	case kindGatewayClass:
		put(x.classes, key.Name, value)
		for _, n := range x.namespaces {
			for name, w := range n.waypoints {
				if w.Class == key.Name {
					n.waypoints[name] = x.buildGateway(w.gateway)
				}
			}
		}
	case kindNamespace:
		x.namespace(key.Name).object, _ = value.(*corev1.Namespace)
	case kindServiceAccount:
		put(n.accounts, key.Name, value)
	case kindPod:
		n.enterPod(key.Name, false)
		put(n.pods, key.Name, value)
		n.enterPod(key.Name, true)
	case kindService:
		n.enterService(key.Name, false)
		put(n.services, key.Name, value)
		n.enterService(key.Name, true)
	case kindEndpointSlice:
		put(n.slices, key.Name, value)
	case kindGateway:
		delete(n.waypoints, key.Name)
		if g, ok := value.(*gatewayv1.Gateway); ok {
			if w := x.buildGateway(g); w != nil {
				n.waypoints[key.Name] = w
			}
		}
		put(n.gateways, key.Name, value)
	case kindHTTPRoute:
		put(n.routes, key.Name, value)
	case kindPolicy:
		put(n.policies, key.Name, value)
	case kindPeer:
		put(n.peers, key.Name, value)
	case kindTokens:
		put(n.tokens, key.Name, value)
	case kindConfigMap:
		put(n.configMaps, key.Name, value)
	case config.MeshKind:
		x.meshFile, _ = value.(*configMap)
	}
}

func put[T any](m map[string]*T, name string, value any) {
	if v, ok := value.(*T); ok {
		m[name] = v
	} else {
		delete(m, name)
	}
}

func (n *namespace) enterPod(name string, in bool) {
	p := n.pods[name]
	if p == nil {
		return
	}
	for k, v := range p.Labels {
		index(n.byLabel, pair{k, v}, name, p, in)
	}
}

func (n *namespace) enterService(name string, in bool) {
	s := n.services[name]
	if s == nil || len(s.Spec.Selector) == 0 {
		return
	}
	index(n.bySelector, firstPair(s.Spec.Selector), name, s, in)
}

// firstPair returns the first label of a selector in the order of names.
func firstPair(selector map[string]string) pair {
	first := pair{}
	for k, v := range selector {
		if first.name == "" || k < first.name {
			first = pair{k, v}
		}
	}
	return first
}

func index[T any](m map[pair]map[string]*T, under pair, name string, v *T, in bool) {
	switch {
	case in && m[under] == nil:
		m[under] = map[string]*T{name: v}
	case in:
		m[under][name] = v
	default:
		if delete(m[under], name); len(m[under]) == 0 {
			delete(m, under)
		}
	}
}

// matching returns the pods that a selector selects.
func (n *namespace) matching(selector map[string]string) []*corev1.Pod {
	if len(selector) == 0 {
		return nil
	}
	var least map[string]*corev1.Pod
	for k, v := range selector {
		if in := n.byLabel[pair{k, v}]; least == nil || len(in) < len(least) {
			if least = in; len(in) == 0 {
				return nil
			}
		}
	}
	var out []*corev1.Pod
	for _, p := range least {
		if selects(selector, p.Labels) {
			out = append(out, p)
		}
	}
	return out
}

// selecting returns the services whose selector selects labels, in the order of
// their names.
func (n *namespace) selecting(labels map[string]string) []*corev1.Service {
	var out []*corev1.Service
	for k, v := range labels {
		for _, s := range n.bySelector[pair{k, v}] {
			if selects(s.Spec.Selector, labels) {
				out = append(out, s)
			}
		}
	}
	slices.SortFunc(out, func(a, b *corev1.Service) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
