package manifest

import (
	"regexp"
	"strings"

	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayv1beta1 "sigs.k8s.io/gateway-api/apis/v1beta1"
	strictjson "sigs.k8s.io/json"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// The kinds that are read. They are the first part of a mesh.Key.
const (
	kindNamespace      = "Namespace"
	kindNode           = "Node"
	kindServiceAccount = "ServiceAccount"
	kindPod            = "Pod"
	kindService        = "Service"
	kindEndpointSlice  = "EndpointSlice"
	kindGatewayClass   = "GatewayClass"
	kindGateway        = "Gateway"
	kindHTTPRoute      = "HTTPRoute"
	kindPolicy         = "AuthorizationPolicy"
	kindPeer           = "PeerAuthentication"
	kindTokens         = "RequestAuthentication"
	kindConfigMap      = "ConfigMap"
)

type kind struct{ version, kind string }

// A reader reads one kind: strictly, and validates.
type reader struct {
	cluster bool // not in a namespace
	decode  func(raw []byte, key mesh.Key) (any, *fault)
}

// kinds lists what is read. Both versions of a kind give the same Go type: they
// differ in name only.
var kinds = map[kind]reader{
	{"v1", kindNamespace}:      {true, decodeAs(validateNamespace)},
	{"v1", kindNode}:           {true, decodeAs(validateNode)},
	{"v1", kindServiceAccount}: {false, decodeAs(func(*corev1.ServiceAccount) *fault { return nil })},
	{"v1", kindConfigMap}:      {false, decodeAs(func(*corev1.ConfigMap) *fault { return nil })},
	{"v1", kindPod}:            {false, decodeAs(validatePod)},
	{"v1", kindService}:        {false, decodeAs(validateService)},

	{"discovery.k8s.io/v1", kindEndpointSlice}: {false, decodeAs(validateSlice)},

	{"gateway.networking.k8s.io/v1", kindGatewayClass}: {true, decodeAs(func(*gatewayv1.GatewayClass) *fault { return nil })},
	{"gateway.networking.k8s.io/v1", kindGateway}:      {false, decodeAs(validateGateway)},
	{"gateway.networking.k8s.io/v1", kindHTTPRoute}:    {false, decodeAs(validateHTTPRoute)},

	{"gateway.networking.k8s.io/v1beta1", kindGatewayClass}: {true, decodeAs(func(*gatewayv1.GatewayClass) *fault { return nil })},
	{"gateway.networking.k8s.io/v1beta1", kindGateway}: {false, decodeAs(func(g *gatewayv1beta1.Gateway) *fault {
		return validateGateway((*gatewayv1.Gateway)(g))
	})},
	{"gateway.networking.k8s.io/v1beta1", kindHTTPRoute}: {false, decodeAs(func(r *gatewayv1beta1.HTTPRoute) *fault {
		return validateHTTPRoute((*gatewayv1.HTTPRoute)(r))
	})},

	{"security.istio.io/v1", kindPolicy}:      {false, decodePolicy},
	{"security.istio.io/v1beta1", kindPolicy}: {false, decodePolicy},
	{"security.istio.io/v1", kindPeer}:        {false, decodePeer},
	{"security.istio.io/v1beta1", kindPeer}:   {false, decodePeer},
	{"security.istio.io/v1", kindTokens}:      {false, decodeTokens},
	{"security.istio.io/v1beta1", kindTokens}: {false, decodeTokens},
}

// decodeAs returns a reader of T.
func decodeAs[T any](validate func(*T) *fault) func([]byte, mesh.Key) (any, *fault) {
	return func(raw []byte, key mesh.Key) (any, *fault) {
		v := new(T)
		if f := strict(raw, v); f != nil {
			return nil, f
		}
		if f := validName(key); f != nil {
			return nil, f
		}
		if o, ok := any(v).(metav1.Object); ok {
			o.SetNamespace(key.Namespace)
		}
		if f := validate(v); f != nil {
			return nil, f
		}
		switch v := any(v).(type) {
		case *gatewayv1beta1.Gateway:
			return (*gatewayv1.Gateway)(v), nil
		case *gatewayv1beta1.HTTPRoute:
			return (*gatewayv1.HTTPRoute)(v), nil
		}
		return v, nil
	}
}

// strict decodes raw and refuses fields that the type does not have.
func strict(raw []byte, into any) *fault {
	unknown, err := strictjson.UnmarshalStrict(raw, into)
	if err != nil {
		if m := wrongType.FindStringSubmatch(err.Error()); m != nil {
			if m[1] == "bool" {
				return faultf(m[2], "bool is not allowed here (in YAML a plain y, n, yes, no, on or off is one)")
			}
			return faultf(m[2], "%s is not allowed here", m[1])
		}
		return &fault{"", plainReason(err)}
	}
	if len(unknown) == 0 {
		return nil
	}
	reason, field, ok := strings.Cut(unknown[0].Error(), ` "`)
	if !ok {
		return &fault{"", unknown[0].Error()}
	}
	return &fault{strings.TrimSuffix(field, `"`), reason}
}

// wrongType reads the path out of the decoder's message: its error type is
// internal to it.
var wrongType = regexp.MustCompile(`cannot unmarshal (\w+).* into Go (?:struct field \w+\.(\S+)|value) of type`)

// A policyObject is an AuthorizationPolicy and the fields of it that the
// official type does not have yet.
type policyObject struct {
	*securityv1.AuthorizationPolicy
	domains map[sourceAt]trustDomains
	lost    bool // of a refused one: it cannot be told what it is attached to
}

// A sourceAt names a source: rule and from.
type sourceAt struct{ rule, from int }

type trustDomains struct{ Is, Not []string }
