package manifest

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// envelope is an Istio object with its spec left as it is: the generated
// decoder of the spec lets unknown fields pass.
type envelope struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              json.RawMessage `json:"spec"`
	Status            json.RawMessage `json:"status"`
}

// decodePolicy reads an AuthorizationPolicy. A refused one still has the
// selector, targets and action that could be read.
func decodePolicy(raw []byte, key mesh.Key) (any, *fault) {
	p := &policyObject{AuthorizationPolicy: &securityv1.AuthorizationPolicy{}}
	spec, f := open(raw, key, &p.ObjectMeta)
	if f == nil {
		p.domains, f = takeTrustDomains(spec)
	}
	if f == nil {
		f = decodeSpec(spec, &p.Spec)
	}
	if f == nil {
		f = validatePolicy(p, key)
	}
	if f != nil {
		p.lost = salvage(spec, &p.Spec)
		readable(spec, "action", &p.Spec)
	}
	return p, f
}

// targetFields are those that say what a policy is attached to.
var targetFields = []string{"selector", "targetRef", "targetRefs"}

// salvage reads of a faulty spec what says which targets it is for. That is lost
// when a field for it is there but cannot be read, or may have been misspelt.
func salvage(spec map[string]any, into proto.Message) (lost bool) {
	proto.Reset(into)
	lost = spec == nil
	m := into.ProtoReflect()
	fields := m.Descriptor().Fields()
	found := false
	for _, field := range targetFields {
		if !readable(spec, field, into) {
			lost = true
		}
		found = found || m.Has(fields.ByJSONName(field))
	}
	if !found {
		for name := range spec {
			if fields.ByJSONName(name) == nil {
				lost = true
			}
		}
	}
	return lost
}

// decodePeer reads a PeerAuthentication. A refused one counts as STRICT for
// what it selects, as far as that could be read.
func decodePeer(raw []byte, key mesh.Key) (any, *fault) {
	p := &securityv1.PeerAuthentication{}
	spec, f := open(raw, key, &p.ObjectMeta)
	if f == nil {
		f = decodeSpec(spec, &p.Spec)
	}
	if f == nil {
		f = validatePeer(p)
	}
	if f != nil {
		p.Spec.Reset()
		readable(spec, "selector", &p.Spec)
		p.Spec.Mtls = strictMTLS()
	}
	return p, f
}

// open reads an object's metadata into meta and returns its spec, which may be
// nil, even of an object at fault.
func open(raw []byte, key mesh.Key, meta *metav1.ObjectMeta) (map[string]any, *fault) {
	var e envelope
	f := strict(raw, &e)
	if f == nil {
		f = validName(key)
	}
	*meta = e.ObjectMeta
	meta.Namespace, meta.Name = key.Namespace, key.Name
	var spec any
	if len(e.Spec) > 0 && json.Unmarshal(e.Spec, &spec) != nil && f == nil {
		f = faultf("spec", "is not an object")
	}
	m, ok := spec.(map[string]any)
	if !ok && spec != nil && f == nil {
		f = faultf("spec", "is not an object")
	}
	return m, f
}

// decodeSpec decodes a spec into its message, strictly.
func decodeSpec(spec map[string]any, into proto.Message) *fault {
	return decodeMessage(spec, into, "spec")
}

// decodeMessage decodes what stands at path into a message, strictly.
func decodeMessage(v map[string]any, into proto.Message, path string) *fault {
	if f := checkMessage(into.ProtoReflect().Descriptor(), v, path); f != nil {
		return f
	}
	raw, err := json.Marshal(v)
	if err == nil && v != nil {
		err = protojson.Unmarshal(raw, into)
	}
	if err != nil {
		return faultf(path, "%s", protoPrefix.ReplaceAllString(err.Error(), ""))
	}
	return nil
}

var protoPrefix = regexp.MustCompile(`^proto:\s*(\(line \d+:\d+\):\s*)?`)

// readable merges one field of a faulty spec into its message, and reports
// whether it could, or the field is not there. What in it is unknown is passed
// over: the rest tells the target.
func readable(spec map[string]any, field string, into proto.Message) bool {
	v, ok := spec[field]
	if !ok {
		return true
	}
	raw, err := json.Marshal(map[string]any{field: v})
	if err != nil {
		return false
	}
	m := into.ProtoReflect().New().Interface()
	if (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, m) != nil {
		return false
	}
	proto.Merge(into, m)
	return true
}

// checkMessage finds the first field that a message does not have, or whose
// value has the wrong form, and names its path; protojson would tell its line
// in text that nobody has seen.
func checkMessage(md protoreflect.MessageDescriptor, v any, path string) *fault {
	if v == nil {
		return nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		return faultf(path, "is not an object")
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		at := join(path, name)
		fd := md.Fields().ByJSONName(name)
		if fd == nil {
			return &fault{at, "unknown field"}
		}
		if f := checkField(fd, m[name], at); f != nil {
			return f
		}
	}
	return nil
}

// mayNotBeEmpty lists what the webhook refuses when it is written and empty: the
// message does not tell that from missing.
var mayNotBeEmpty = map[protoreflect.FullName]bool{
	"istio.security.v1beta1.Rule.from": true,
	"istio.security.v1beta1.Rule.to":   true,
	"istio.security.v1beta1.Rule.when": true,
}

func checkField(fd protoreflect.FieldDescriptor, v any, path string) *fault {
	switch {
	case v == nil:
		return nil
	case fd.IsMap():
		m, ok := v.(map[string]any)
		if !ok {
			return faultf(path, "is not an object")
		}
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if f := checkValue(fd.MapValue(), m[k], path+"["+strconv.Quote(k)+"]"); f != nil {
				return f
			}
		}
		return nil
	case fd.IsList():
		l, ok := v.([]any)
		if !ok {
			return faultf(path, "is not a list")
		}
		if len(l) == 0 && mayNotBeEmpty[fd.FullName()] {
			return faultf(path, "is empty: it would not restrict anything")
		}
		for i, e := range l {
			if f := checkValue(fd, e, path+"["+strconv.Itoa(i)+"]"); f != nil {
				return f
			}
		}
		return nil
	}
	return checkValue(fd, v, path)
}

func checkValue(fd protoreflect.FieldDescriptor, v any, path string) *fault {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		if v == nil && fd.IsList() {
			return faultf(path, "is empty")
		}
		if fd.Message().FullName() == "google.protobuf.Duration" {
			return checkDuration(v, path)
		}
		return checkMessage(fd.Message(), v, path)
	case protoreflect.EnumKind:
		s, ok := v.(string)
		if !ok || fd.Enum().Values().ByName(protoreflect.Name(s)) == nil {
			return faultf(path, "%v is not one of %s", v, enumNames(fd.Enum()))
		}
	case protoreflect.StringKind:
		if _, ok := v.(string); !ok {
			return faultf(path, "%v is not a string: it needs quotes", v)
		}
	case protoreflect.Uint32Kind:
		if n, ok := v.(float64); !ok || n != float64(uint32(n)) {
			return faultf(path, "%v is not a number from 0 to 4294967295", v)
		}
	case protoreflect.BoolKind:
		if _, ok := v.(bool); !ok {
			return faultf(path, "%v is neither true nor false", v)
		}
	}
	return nil
}

func checkDuration(v any, path string) *fault {
	raw, err := json.Marshal(v)
	if err != nil || protojson.Unmarshal(raw, new(durationpb.Duration)) != nil {
		return faultf(path, "%v is not a duration in seconds: write 5s or 0.5s", v)
	}
	return nil
}

func enumNames(ed protoreflect.EnumDescriptor) string {
	s := ""
	for i := range ed.Values().Len() {
		if i > 0 {
			s += ", "
		}
		s += string(ed.Values().Get(i).Name())
	}
	return s
}

// takeTrustDomains takes trustDomains and notTrustDomains out of a policy's
// sources: the API has them, the Go type of this release does not.
func takeTrustDomains(spec map[string]any) (map[sourceAt]trustDomains, *fault) {
	var out map[sourceAt]trustDomains
	rules, _ := spec["rules"].([]any)
	for i, r := range rules {
		rule, _ := r.(map[string]any)
		from, _ := rule["from"].([]any)
		for j, e := range from {
			f, _ := e.(map[string]any)
			source, _ := f["source"].(map[string]any)
			path := "spec.rules[" + strconv.Itoa(i) + "].from[" + strconv.Itoa(j) + "].source"
			is, err := takeStrings(source, "trustDomains", path)
			if err != nil {
				return nil, err
			}
			not, err := takeStrings(source, "notTrustDomains", path)
			if err != nil {
				return nil, err
			}
			if is == nil && not == nil {
				continue
			}
			if out == nil {
				out = map[sourceAt]trustDomains{}
			}
			out[sourceAt{i, j}] = trustDomains{is, not}
		}
	}
	return out, nil
}

func takeStrings(m map[string]any, field, path string) ([]string, *fault) {
	v, ok := m[field]
	if !ok {
		return nil, nil
	}
	delete(m, field)
	l, ok := v.([]any)
	if !ok {
		return nil, faultf(join(path, field), "is not a list")
	}
	out := make([]string, len(l))
	for i, e := range l {
		if out[i], ok = e.(string); !ok {
			return nil, faultf(join(path, field)+"["+strconv.Itoa(i)+"]", "%v is not a string: it needs quotes", e)
		}
	}
	return out, nil
}
