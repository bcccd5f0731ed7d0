package jwt

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"strconv"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// An outcome is what rules of one shape make of a valid token. It is immutable
// and shares no memory with the token's text.
type outcome struct {
	token  *authz.Token
	fields []l7.Field
}

// outcome returns what r makes of t.
func (r *rule) outcome(t *token) *outcome {
	o := &outcome{token: authz.NewToken(split(t.claims, r.words))}
	if r.payload != "" {
		o.fields = append(o.fields, l7.Field{Name: r.payload, Value: strings.Clone(t.payload)})
	}
	for _, c := range r.claims {
		if value := strings.Trim(claimText(lookup(t.claims, c.path)), " \t"); value != "" && isFieldValue(value) {
			o.fields = append(o.fields, l7.Field{Name: c.field, Value: value})
		}
	}
	return o
}

// split returns claims with those named in words made lists.
func split(claims map[string]any, words []string) map[string]any {
	out, cloned := claims, false
	for _, name := range words {
		s, _ := claims[name].(string)
		list := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' })
		if len(list) == 0 {
			continue
		}
		if !cloned {
			out, cloned = maps.Clone(claims), true
		}
		items := make([]any, len(list))
		for i, item := range list {
			items[i] = item
		}
		out[name] = items
	}
	return out
}

// lookup returns the claim at path, or nil.
func lookup(claims map[string]any, path []string) any {
	last := len(path) - 1
	for _, name := range path[:last] {
		claims, _ = claims[name].(map[string]any)
	}
	return claims[path[last]]
}

// claimText writes a claim as Envoy does: whole numbers that are not negative as
// such and others with six digits after the point; lists and objects as JSON in
// base64. It is "" for what is not written.
func claimText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case float64:
		if v >= 0 && v < 1<<64 && v == float64(uint64(v)) {
			return strconv.FormatUint(uint64(v), 10)
		}
		return strconv.FormatFloat(v, 'f', 6, 64)
	case nil:
		return ""
	}
	text, _ := json.Marshal(v)
	return base64.StdEncoding.EncodeToString(text)
}

// isFieldValue reports whether s can be the value of a field (RFC 9110, section
// 5.5). A claim may be what its subject chose: it must not end a line.
func isFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
