package manifest

import (
	"encoding/json"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A provider is an entry of MeshConfig's extensionProviders.
type provider struct {
	d      document // the text it stands in
	object mesh.Key // which holds it
	index  int
	name   string // "" of one without

	authz   *authz.Provider
	rego    mesh.Key // the ConfigMap that the modules of one of the kind OPA are in, or zero
	ignored string   // why it is none of ours
	err     *Error
}

// key names a provider that is refused, as a resource.
func (p *provider) key() mesh.Key { return mesh.Key{Kind: "ExtensionProvider", Name: p.label()} }

func (p *provider) label() string {
	if p.name == "" {
		return strconv.Itoa(p.index)
	}
	return p.name
}

// at returns an error about a field of p that has no reason yet.
func (p *provider) at(field string) *Error {
	entry := "extensionProviders[" + strconv.Itoa(p.index) + "]"
	e := &Error{File: p.d.file, Line: p.d.at(join(entry, field)), Object: p.object, Field: join(entry, field)}
	if p.name != "" {
		e.Field = join("extensionProviders[name="+p.name+"]", field)
	}
	return e
}

func (p *provider) error(field, reason string) *Error {
	e := p.at(field)
	e.Reason = reason
	return e
}

// providerKinds are the fields of an entry that make it one of ours.
var providerKinds = map[string]func(p *provider, v any) *fault{
	authz.HTTP.String(): (*provider).readHTTP,
	authz.GRPC.String(): (*provider).readGRPC,
	authz.OPA.String():  (*provider).readOPA,
}

// readProvider reads an entry. Those of the kinds that are for telemetry are
// ignored, and so is one of a kind that is not known.
func readProvider(d document, object mesh.Key, index int, entry any) *provider {
	p := &provider{d: d, object: object, index: index}
	fields, ok := entry.(map[string]any)
	if !ok {
		p.err = p.error("", "is not an object")
		return p
	}
	name, ok := fields["name"].(string)
	if !ok || name == "" {
		p.err = p.error("name", "is required, and a string")
		return p
	}
	p.name = name
	delete(fields, "name")
	kinds := slices.Sorted(maps.Keys(fields))
	switch {
	case !slices.ContainsFunc(kinds, func(k string) bool { return providerKinds[k] != nil }):
		p.ignored = strings.Join(kinds, ", ") + ": is no authorizer"
		return p
	case len(kinds) > 1:
		p.err = p.error("", "has "+strings.Join(kinds, " and ")+": an entry has one")
		return p
	}
	p.authz = &authz.Provider{Name: name}
	f := providerKinds[kinds[0]](p, fields[kinds[0]])
	if f == nil {
		f = providerFault(p.authz.Validate())
	}
	if f != nil {
		p.err = p.error(f.field, f.reason)
	}
	return p
}

// providerFault takes the first of the errors that Validate has joined.
func providerFault(err error) *fault {
	var field *authz.ProviderError
	if errors.As(err, &field) {
		return &fault{field.Field, field.Reason}
	}
	return nil
}

// The kinds of entry that Istio has are MeshConfig.ExtensionProvider's in its API.
// They are not read into Istio's types because those bring all of networking's
// with them, and what a program links it carries: with OPA it was a quarter of what
// a proxy has when idle.

// A providerBody is Istio's EnvoyExternalAuthorizationRequestBody.
type providerBody struct {
	MaxRequestBytes     int  `json:"maxRequestBytes"`
	AllowPartialMessage bool `json:"allowPartialMessage"`
	PackAsBytes         bool `json:"packAsBytes"`
}

func (b *providerBody) body() *authz.Body {
	if b == nil {
		return nil
	}
	return &authz.Body{Max: b.MaxRequestBytes, AllowPartial: b.AllowPartialMessage, AsBytes: b.PackAsBytes}
}

// A grpcProvider is an EnvoyExternalAuthorizationGrpcProvider. The route cache is
// Envoy's: our routes are chosen once the authorizer has answered.
type grpcProvider struct {
	Service         string        `json:"service"`
	Port            uint32        `json:"port"`
	Timeout         string        `json:"timeout"`
	FailOpen        bool          `json:"failOpen"`
	StatusOnError   string        `json:"statusOnError"`
	Body            *providerBody `json:"includeRequestBodyInCheck"`
	ClearRouteCache bool          `json:"clearRouteCache"`
}

// An httpProvider is an EnvoyExternalAuthorizationHttpProvider.
type httpProvider struct {
	Service            string            `json:"service"`
	Port               uint32            `json:"port"`
	Timeout            string            `json:"timeout"`
	FailOpen           bool              `json:"failOpen"`
	StatusOnError      string            `json:"statusOnError"`
	Body               *providerBody     `json:"includeRequestBodyInCheck"`
	PathPrefix         string            `json:"pathPrefix"`
	IncludeHeaders     []string          `json:"includeRequestHeadersInCheck"`
	IncludeHeadersOld  []string          `json:"includeHeadersInCheck"` // deprecated, and in use
	AdditionalHeaders  map[string]string `json:"includeAdditionalHeadersInCheck"`
	HeadersToUpstream  []string          `json:"headersToUpstreamOnAllow"`
	HeadersToClient    []string          `json:"headersToDownstreamOnAllow"`
	HeadersToClientNot []string          `json:"headersToDownstreamOnDeny"`
	ClearRouteCache    bool              `json:"clearRouteCache"`
}

// decode reads what stands at path, and takes nothing that into does not have.
func decode(v any, into any, path string) *fault {
	if _, ok := v.(map[string]any); !ok {
		return faultf(path, "is not an object")
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return faultf(path, "%v", err)
	}
	if f := strict(raw, into); f != nil {
		return &fault{join(path, f.field), f.reason}
	}
	return nil
}

// common reads what all kinds share.
func (p *provider) common(timeout, statusOnError string, failOpen bool, b *providerBody) *fault {
	p.authz.FailOpen, p.authz.Body = failOpen, b.body()
	if f := p.timeout(timeout); f != nil {
		return f
	}
	return p.status(statusOnError)
}

func (p *provider) readGRPC(v any) *fault {
	p.authz.Kind = authz.GRPC
	var in grpcProvider
	if f := decode(v, &in, authz.GRPC.String()); f != nil {
		return f
	}
	p.authz.Service, p.authz.Port = in.Service, in.Port
	return p.common(in.Timeout, in.StatusOnError, in.FailOpen, in.Body)
}

func (p *provider) readHTTP(v any) *fault {
	p.authz.Kind = authz.HTTP
	var in httpProvider
	if f := decode(v, &in, authz.HTTP.String()); f != nil {
		return f
	}
	out := p.authz
	out.Service, out.Port, out.PathPrefix = in.Service, in.Port, in.PathPrefix
	out.IncludeHeaders = append(in.IncludeHeaders, in.IncludeHeadersOld...)
	for _, name := range slices.Sorted(maps.Keys(in.AdditionalHeaders)) {
		out.AdditionalHeaders = append(out.AdditionalHeaders, l7.Field{Name: strings.ToLower(name), Value: in.AdditionalHeaders[name]})
	}
	out.HeadersToUpstream, out.HeadersToClient, out.HeadersToClientNot = in.HeadersToUpstream, in.HeadersToClient, in.HeadersToClientNot
	return p.common(in.Timeout, in.StatusOnError, in.FailOpen, in.Body)
}

// timeout reads a duration; "" is the default.
func (p *provider) timeout(s string) *fault {
	if s == "" {
		return nil
	}
	kind := p.authz.Kind
	if _, err := strconv.ParseFloat(strings.TrimSuffix(s, "s"), 64); err != nil && kind != authz.OPA {
		// A protobuf Duration in JSON, which istiod would refuse as well.
		return faultf(kind.String()+".timeout", "%s is not a duration in seconds: write 5s or 0.5s", s)
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return faultf(kind.String()+".timeout", "%q is not a duration: write 1s or 200ms", s)
	}
	p.authz.Timeout = d
	return nil
}

// status reads statusOnError, which is written as a string.
func (p *provider) status(s string) *fault {
	if s == "" {
		return nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n == 0 {
		return faultf(p.authz.Kind.String()+".statusOnError", "%q is no HTTP status", s)
	}
	p.authz.StatusOnError = n
	return nil
}

// An opaProvider is the kind of entry that is ours.
type opaProvider struct {
	Path      string `json:"path"`   // a file or directory
	Bundle    string `json:"bundle"` // a .tar.gz
	ConfigMap *struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"` // "" is where MeshConfig is
	} `json:"configMap"`

	Decision    string `json:"decision"`
	DecisionLog string `json:"decisionLog"` // a file

	Timeout       string        `json:"timeout"`
	FailOpen      bool          `json:"failOpen"`
	StatusOnError string        `json:"statusOnError"`
	Body          *providerBody `json:"includeRequestBodyInCheck"`
}

func (p *provider) readOPA(v any) *fault {
	p.authz.Kind = authz.OPA
	var in opaProvider
	if f := decode(v, &in, authz.OPA.String()); f != nil {
		return f
	}
	out := p.authz
	out.OPA = &authz.OPAPolicy{Decision: in.Decision, DecisionLog: p.beside(in.DecisionLog)}
	if f := p.policy(&in); f != nil {
		return f
	}
	return p.common(in.Timeout, in.StatusOnError, in.FailOpen, in.Body)
}

// policy reads where the policy of one of the kind OPA is: in one of three places.
func (p *provider) policy(in *opaProvider) *fault {
	opa := p.authz.OPA
	var places []string
	if in.Path != "" {
		places = append(places, "path")
		opa.Path = p.beside(in.Path)
	}
	if in.Bundle != "" {
		places = append(places, "bundle")
		if opa.Path = p.beside(in.Bundle); !strings.HasSuffix(in.Bundle, ".tar.gz") {
			return faultf("opa.bundle", "%q is not a bundle, which ends with .tar.gz: a file or directory is for path", in.Bundle)
		}
	}
	if in.ConfigMap != nil {
		places = append(places, "configMap")
		if in.ConfigMap.Name == "" {
			return faultf("opa.configMap.name", "is required")
		}
		p.rego = mesh.Key{Kind: kindConfigMap, Namespace: in.ConfigMap.Namespace, Name: in.ConfigMap.Name}
		opa.Modules = map[string]string{} // they come when the ConfigMap is looked up
	}
	if len(places) > 1 {
		return faultf("opa."+places[1], "may not be combined with %s", places[0])
	}
	return nil
}

// beside returns a path as seen from the file that it is written in.
func (p *provider) beside(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(p.d.file), path)
}

// regoSuffix is how the names of a ConfigMap's entries end that are Rego, and
// dataSuffixes those of the data beside it.
const regoSuffix = ".rego"

var dataSuffixes = []string{".json", ".yaml", ".yml"}

// provider returns the authorizer that p is as things stand.
func (x *Index) provider(p *provider) (*authz.Provider, *Error) {
	if p.err != nil || p.rego == (mesh.Key{}) {
		return p.authz, p.err
	}
	from := p.rego
	if from.Namespace == "" {
		from.Namespace = x.o.MeshNamespace
	}
	m := x.namespace(from.Namespace).configMaps[from.Name]
	if m == nil {
		return nil, p.error("opa.configMap", "there is no "+nameOf(from))
	}
	files, rego := map[string]string{}, false
	for name, text := range m.data {
		switch {
		case strings.HasSuffix(name, regoSuffix):
			files[name], rego = text, true
		case slices.ContainsFunc(dataSuffixes, func(suffix string) bool { return strings.HasSuffix(name, suffix) }):
			files[name] = text
		}
	}
	if !rego {
		return nil, p.error("opa.configMap", nameOf(from)+" has no entry whose name ends with "+regoSuffix)
	}
	out, opa := *p.authz, *p.authz.OPA
	opa.Modules, opa.ConfigMap = files, from.Namespace+"/"+from.Name
	out.OPA = &opa
	return &out, nil
}
