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

	"google.golang.org/protobuf/proto"
	meshv1alpha1 "istio.io/api/mesh/v1alpha1"

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

// message reads a kind of entry that Istio's API has.
func (p *provider) message(kind authz.ProviderKind, v any, into proto.Message) *fault {
	p.authz.Kind = kind
	fields, ok := v.(map[string]any)
	if !ok {
		return faultf(kind.String(), "is not an object")
	}
	return decodeMessage(fields, into, kind.String())
}

func (p *provider) readGRPC(v any) *fault {
	var in meshv1alpha1.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationGrpcProvider
	if f := p.message(authz.GRPC, v, &in); f != nil {
		return f
	}
	out := p.authz
	out.Service, out.Port = in.GetService(), in.GetPort()
	out.Timeout, out.FailOpen = in.GetTimeout().AsDuration(), in.GetFailOpen()
	out.Body = body(in.GetIncludeRequestBodyInCheck())
	return p.status(in.GetStatusOnError())
}

func (p *provider) readHTTP(v any) *fault {
	var in meshv1alpha1.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationHttpProvider
	if f := p.message(authz.HTTP, v, &in); f != nil {
		return f
	}
	out := p.authz
	out.Service, out.Port = in.GetService(), in.GetPort()
	out.Timeout, out.FailOpen = in.GetTimeout().AsDuration(), in.GetFailOpen()
	out.Body = body(in.GetIncludeRequestBodyInCheck())
	out.PathPrefix = in.GetPathPrefix()
	old := in.GetIncludeHeadersInCheck() //nolint:staticcheck // deprecated, and in use
	out.IncludeHeaders = append(slices.Clone(in.GetIncludeRequestHeadersInCheck()), old...)
	additional := in.GetIncludeAdditionalHeadersInCheck()
	for _, name := range slices.Sorted(maps.Keys(additional)) {
		out.AdditionalHeaders = append(out.AdditionalHeaders, l7.Field{Name: strings.ToLower(name), Value: additional[name]})
	}
	out.HeadersToUpstream, out.HeadersToClient = in.GetHeadersToUpstreamOnAllow(), in.GetHeadersToDownstreamOnAllow()
	out.HeadersToClientNot = in.GetHeadersToDownstreamOnDeny()
	return p.status(in.GetStatusOnError())
}

func body(b *meshv1alpha1.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationRequestBody) *authz.Body {
	if b == nil {
		return nil
	}
	return &authz.Body{Max: int(b.GetMaxRequestBytes()), AllowPartial: b.GetAllowPartialMessage(), AsBytes: b.GetPackAsBytes()}
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

	Timeout       string `json:"timeout"`
	FailOpen      bool   `json:"failOpen"`
	StatusOnError string `json:"statusOnError"`
	Body          *struct {
		MaxRequestBytes     int  `json:"maxRequestBytes"`
		AllowPartialMessage bool `json:"allowPartialMessage"`
		PackAsBytes         bool `json:"packAsBytes"`
	} `json:"includeRequestBodyInCheck"`
}

func (p *provider) readOPA(v any) *fault {
	p.authz.Kind = authz.OPA
	raw, err := json.Marshal(v)
	if err != nil {
		return faultf("opa", "%v", err)
	}
	var in opaProvider
	if f := strict(raw, &in); f != nil {
		return &fault{join("opa", f.field), f.reason}
	}
	out := p.authz
	out.OPA = &authz.OPAPolicy{Decision: in.Decision, DecisionLog: p.beside(in.DecisionLog)}
	if b := in.Body; b != nil {
		out.Body = &authz.Body{Max: b.MaxRequestBytes, AllowPartial: b.AllowPartialMessage, AsBytes: b.PackAsBytes}
	}
	out.FailOpen = in.FailOpen
	if in.Timeout != "" {
		if out.Timeout, err = time.ParseDuration(in.Timeout); err != nil || out.Timeout <= 0 {
			return faultf("opa.timeout", "%q is not a duration: write 1s or 200ms", in.Timeout)
		}
	}
	if f := p.policy(&in); f != nil {
		return f
	}
	return p.status(in.StatusOnError)
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
