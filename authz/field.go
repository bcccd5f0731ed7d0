package authz

import (
	"errors"
	"fmt"
	"strings"
)

// A field is a field of a Source or Operation, or a Condition: an attribute and
// the values it is compared with. It is what the three have in common.
type field struct {
	name              string
	kind              fieldKind
	header            string   // of fieldHeader: lower case
	claim             []string // of fieldClaim: its path
	condition         bool
	key               string // of a condition
	values, notValues []string
}

// A fieldKind says how the values of a field are read and what they are
// compared with.
type fieldKind uint8

const (
	fieldPrincipal fieldKind = iota
	fieldNamespace
	fieldAccount
	fieldTrustDomain
	fieldIP
	fieldRemoteIP
	fieldDestIP
	fieldPort
	fieldSNI
	fieldMetadata // dynamic metadata of an Envoy filter
	fieldHost
	fieldMethod
	fieldPath
	fieldHeader
	fieldRequestPrincipal
	fieldClaim
)

// http reports whether a field asks for what only a request has.
func (k fieldKind) http() bool { return k >= fieldHost }

// token reports whether a field asks for what only a JWT says.
func (k fieldKind) token() bool { return k >= fieldRequestPrincipal }

func (f field) notName() string { return "not" + strings.ToUpper(f.name[:1]) + f.name[1:] }

func (s *Source) fields() []field {
	return []field{
		{name: "principals", kind: fieldPrincipal, values: s.Principals, notValues: s.NotPrincipals},
		{name: "requestPrincipals", kind: fieldRequestPrincipal, values: s.RequestPrincipals, notValues: s.NotRequestPrincipals},
		{name: "namespaces", kind: fieldNamespace, values: s.Namespaces, notValues: s.NotNamespaces},
		{name: "serviceAccounts", kind: fieldAccount, values: s.ServiceAccounts, notValues: s.NotServiceAccounts},
		{name: "trustDomains", kind: fieldTrustDomain, values: s.TrustDomains, notValues: s.NotTrustDomains},
		{name: "ipBlocks", kind: fieldIP, values: s.IPBlocks, notValues: s.NotIPBlocks},
		{name: "remoteIpBlocks", kind: fieldRemoteIP, values: s.RemoteIPBlocks, notValues: s.NotRemoteIPBlocks},
	}
}

func (o *Operation) fields() []field {
	return []field{
		{name: "hosts", kind: fieldHost, values: o.Hosts, notValues: o.NotHosts},
		{name: "ports", kind: fieldPort, values: o.Ports, notValues: o.NotPorts},
		{name: "methods", kind: fieldMethod, values: o.Methods, notValues: o.NotMethods},
		{name: "paths", kind: fieldPath, values: o.Paths, notValues: o.NotPaths},
	}
}

// conditionKeys are the keys of a Condition that are whole names.
var conditionKeys = map[string]fieldKind{
	"source.ip":              fieldIP,
	"remote.ip":              fieldRemoteIP,
	"source.namespace":       fieldNamespace,
	"source.principal":       fieldPrincipal,
	"source.serviceAccount":  fieldAccount,
	"source.trustDomain":     fieldTrustDomain,
	"request.auth.principal": fieldRequestPrincipal,
	"request.auth.audiences": fieldClaim,
	"request.auth.presenter": fieldClaim,
	"destination.ip":         fieldDestIP,
	"destination.port":       fieldPort,
	"connection.sni":         fieldSNI,
}

// conditionClaims are those of the keys that name a claim.
var conditionClaims = map[string][]string{"request.auth.audiences": {"aud"}, "request.auth.presenter": {"azp"}}

// field returns what a condition compares; the error is about its key.
func (w *Condition) field() (field, error) {
	f := field{name: "values", condition: true, key: w.Key, values: w.Values, notValues: w.NotValues}
	if k, ok := conditionKeys[w.Key]; ok {
		f.kind, f.claim = k, conditionClaims[w.Key]
		return f, nil
	}
	if rest, ok := strings.CutPrefix(w.Key, "request.headers"); ok {
		names, err := brackets(rest)
		if err != nil || len(names) != 1 {
			return f, fmt.Errorf("%q is not of the form request.headers[name]", w.Key)
		}
		f.kind, f.header = fieldHeader, strings.ToLower(names[0])
		return f, nil
	}
	if rest, ok := strings.CutPrefix(w.Key, "request.auth.claims"); ok {
		path, err := brackets(rest)
		if err != nil {
			return f, fmt.Errorf("%q is not of the form request.auth.claims[name] or [name][name]", w.Key)
		}
		f.kind, f.claim = fieldClaim, path
		return f, nil
	}
	if rest, ok := strings.CutPrefix(w.Key, "experimental.envoy.filters."); ok {
		_, name, ok := strings.Cut(rest, "[")
		if !ok || len(name) < 2 || !strings.HasSuffix(name, "]") {
			return f, fmt.Errorf("%q is not of the form experimental.envoy.filters.name[key]", w.Key)
		}
		f.kind = fieldMetadata
		return f, nil
	}
	return f, unknownKey(w.Key)
}

func unknownKey(key string) error {
	switch {
	case strings.HasPrefix(key, "destination.labels"), strings.HasPrefix(key, "destination.namespace"),
		key == "destination.name", key == "destination.user":
		return fmt.Errorf("%q is no longer an attribute; attach the policy with selector or targetRefs", key)
	case strings.HasPrefix(key, "source.labels"):
		return fmt.Errorf("%q is no longer an attribute; use source.principal", key)
	}
	return fmt.Errorf("unknown attribute %q", key)
}

// brackets reads [a][b]… .
func brackets(s string) (names []string, err error) {
	for s != "" {
		rest, ok := strings.CutPrefix(s, "[")
		name, rest, closed := strings.Cut(rest, "]")
		if !ok || !closed || name == "" || strings.Contains(name, "[") {
			return nil, errors.New("bad brackets")
		}
		names, s = append(names, name), rest
	}
	if names == nil {
		return nil, errors.New("no brackets")
	}
	return names, nil
}

// A Field is a field of a rule, or the values of a condition, as a policy has it.
type Field struct {
	Path   string // spec.rules[0].from[1].source.notPrincipals
	Rule   int
	Name   string // principals, or of a condition its key
	Values []string
	Not    bool // none of Values may match

	HTTP  bool // only a request has what it asks for
	Token bool // only a request with a valid JWT
	Node  bool // the node tunnel enforces it
}

// Fields returns the fields of p that have values, in the order in which they
// are written.
func (p *Policy) Fields() (out []Field) {
	for i := range p.Rules {
		r := &p.Rules[i]
		at := fmt.Sprintf("spec.rules[%d]", i)
		for j := range r.From {
			out = exported(out, i, fmt.Sprintf("%s.from[%d].source", at, j), r.From[j].fields())
		}
		for j := range r.To {
			out = exported(out, i, fmt.Sprintf("%s.to[%d].operation", at, j), r.To[j].fields())
		}
		for j := range r.When {
			if f, err := r.When[j].field(); err == nil {
				out = exported(out, i, fmt.Sprintf("%s.when[%d]", at, j), []field{f})
			}
		}
	}
	return out
}

// exported appends the fields at a place that have values.
func exported(out []Field, rule int, at string, fields []field) []Field {
	for _, f := range fields {
		x := Field{Path: at + "." + f.name, Rule: rule, Name: f.name, Values: f.values, HTTP: f.kind.http(), Token: f.kind.token(), Node: node.sees(f)}
		if f.condition {
			x.Name = f.key
		}
		if len(x.Values) > 0 {
			out = append(out, x)
		}
		x.Path, x.Values, x.Not = at+"."+f.notName(), f.notValues, true
		if len(x.Values) > 0 {
			out = append(out, x)
		}
	}
	return out
}
