package policy

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A Request is one that nobody has made: what Explain is asked about.
type Request struct {
	// To is what the client dials: Service/ns/name, Gateway/ns/name, Workload/ns/name
	// (a pod), an address or a host name; each with :port or without.
	To string

	// From is the client's ns/account or whole principal; "" is a client in
	// plaintext.
	From     string
	SourceIP netip.Addr // not valid: that of a pod of the account, if there is one

	Method, Path, Host string // "" is GET, / and what To is called
	Port               uint16 // 0: the one that To has
	Fields             l7.Fields
	SNI                string
	TCP                bool // it is not HTTP

	// Token is a JWT that comes with the request, in "authorization: Bearer". If
	// TrustToken, it is valid, whoever signed it. Claims are those of a valid one.
	Token      string
	TrustToken bool
	Claims     map[string]any
	Keys       jwt.Ring // of issuers whose keys would be fetched

	// Answers are what authorizers say, by their names.
	Answers map[string]bool

	// At is waypoint or node: only that is asked. Waypoint is the one that is asked
	// in the place of the destination's own.
	At       string
	Waypoint mesh.Key
}

// ParseName reads namespace/name.
func ParseName(s string) (mesh.Key, error) {
	ns, name, ok := strings.Cut(s, "/")
	if !ok || ns == "" || name == "" || strings.Contains(name, "/") {
		return mesh.Key{}, fmt.Errorf("%q is not of the form namespace/name", s)
	}
	return mesh.Key{Namespace: ns, Name: name}, nil
}

// client returns who a client is.
func (m *Mesh) client(from string) (identity.ID, error) {
	if from == "" {
		return identity.ID{}, nil
	}
	from = strings.TrimPrefix(from, "spiffe://")
	if strings.Count(from, "/") == 4 {
		return identity.Parse("spiffe://" + from)
	}
	k, err := ParseName(from)
	if err != nil {
		return identity.ID{}, fmt.Errorf("from: %q is neither namespace/account nor a principal, trust-domain/ns/namespace/sa/account", from)
	}
	return identity.Parse("spiffe://" + m.trustDomain() + "/ns/" + k.Namespace + "/sa/" + k.Name)
}

// podOf returns the first pod that runs as a client, or nil.
func (m *Mesh) podOf(id identity.ID) (first *mesh.Workload) {
	if id.IsZero() {
		return nil
	}
	for w := range m.view(node).Workloads() {
		if w.Identity() == id && len(w.Addresses) > 0 && (first == nil || w.UID < first.UID) {
			first = w
		}
	}
	return first
}

// head returns the head of the request, with its path normalised; or with an
// error, as it is.
func (r *Request) head(host string, port uint16, normalize func(string) (string, error)) (*l7.Request, error) {
	if r.TCP {
		return nil, nil
	}
	h := &l7.Request{Method: r.Method, Scheme: "http", Authority: r.Host, Path: r.Path, Fields: append(l7.Fields{}, r.Fields...), Length: -1}
	if h.Method == "" {
		h.Method = "GET"
	}
	if h.Path == "" {
		h.Path = "/"
	}
	if h.Authority == "" {
		h.Authority = host
		if port != 80 && port != 0 {
			h.Authority += ":" + strconv.Itoa(int(port))
		}
	}
	if r.Token != "" {
		h.Fields = h.Fields.Set("authorization", "Bearer "+r.Token)
	}
	path, err := normalize(h.Path)
	if err == nil {
		h.Path = path
	}
	return h, err
}

// ParseField reads a header field, name:value or name=value.
func ParseField(s string) (l7.Field, error) {
	i := strings.IndexAny(s, ":=")
	if i < 1 {
		return l7.Field{}, fmt.Errorf("%q is not of the form name: value", s)
	}
	return l7.Field{Name: strings.ToLower(strings.TrimSpace(s[:i])), Value: strings.TrimSpace(s[i+1:])}, nil
}

// trusted returns the token that is taken to be valid, or nil. Of its claims,
// words are lists of words.
func (r *Request) trusted(words []string) (*authz.Token, error) {
	claims := r.Claims
	if r.Token != "" && r.TrustToken {
		var err error
		if claims, err = claimsOf(r.Token); err != nil {
			return nil, err
		}
	}
	if claims == nil {
		return nil, nil
	}
	return authz.NewToken(splitWords(claims, words)), nil
}

// claimsOf returns what a JWT says, whoever signed it. The text of a token is
// never part of an error.
func claimsOf(token string) (claims map[string]any, err error) {
	parts := strings.Split(strings.TrimSpace(token), ".")
	if len(parts) != 3 {
		return nil, errors.New("jwt: it is not of the form header.payload.signature")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, errors.New("jwt: its payload is not base64url")
	}
	if json.Unmarshal(payload, &claims) != nil || claims == nil {
		return nil, errors.New("jwt: its payload is not a JSON object")
	}
	return claims, nil
}

// splitWords returns claims with those lists that are written as one string of
// words made lists, as verifying a token does.
func splitWords(claims map[string]any, names []string) map[string]any {
	out := make(map[string]any, len(claims))
	for k, v := range claims {
		out[k] = v
	}
	for _, name := range append([]string{"scope", "permission"}, names...) {
		s, ok := claims[name].(string)
		if list := strings.Fields(s); ok && len(list) > 0 {
			items := make([]any, len(list))
			for i, item := range list {
				items[i] = item
			}
			out[name] = items
		}
	}
	return out
}

// AddKeys takes a key set for the one that would be fetched at a jwksUri or, by
// OpenID Connect Discovery, from an issuer.
func (r *Request) AddKeys(uri string, content []byte) error {
	keys, err := jwt.ParseKeys(content)
	if keys == nil || keys.Len() == 0 {
		return errors.Join(errors.New("there is no key to be used"), err)
	}
	if r.Keys == nil {
		r.Keys = jwt.Ring{}
	}
	r.Keys[jwt.Source{URI: uri}] = keys
	r.Keys[jwt.Source{Issuer: uri}] = keys
	return nil
}
