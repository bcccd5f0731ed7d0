package jwt

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/waystone-mesh/waystone/authz"
)

// Options say whose view of the policies is compiled.
type Options struct {
	RootNamespace string // "" is istio-system; only from there may a GatewayClass be targeted

	// Inlined says that the keys of a jwksUri may be in jwks, as in istiod's
	// translations. Then a rule with keys needs no issuer.
	Inlined bool
}

// A Set decides about the tokens of requests to one destination. It is immutable
// and safe for concurrent use. A nil Set takes every request as it is.
type Set struct {
	rules   []rule   // in the order of their issuers
	outputs []string // the fields that any of them writes
	closed  string   // the log's details of a Set that refuses everything
}

// A rule is a Rule compiled.
type rule struct {
	policy *RequestAuthentication
	index  int // in policy

	issuer    string
	audiences map[string]bool // none: any

	source  Source
	timeout time.Duration
	inline  *Keys // nil: those at source

	headers         []Header // names in lower case; all three in the order of Envoy's maps
	params, cookies []string
	forward         bool

	payload string // the field for it, or ""
	claims  []claim
	outputs []string // the fields that the rule writes
	words   []string // the claims that are lists of words

	shape shape
}

// A claim is written into a field.
type claim struct {
	field string
	path  []string
}

// A shape stands for everything on which depends what a rule makes of a valid
// token. Rules of one shape make the same of it.
type shape [sha256.Size]byte

// wordClaims are lists of words whatever a rule says.
var wordClaims = []string{"permission", "scope"}

// Compile returns the Set of policies, which are taken to be attached to the
// same destination. The error joins one error for each field of each policy that
// is not valid or not supported; the Set is then one that refuses everything,
// for there is no telling whom those policies were to keep out.
func Compile(o Options, policies ...*RequestAuthentication) (*Set, error) {
	s := &Set{}
	var errs []error
	for _, p := range policies {
		if err := admit(o, p); err != nil {
			errs = append(errs, err)
			continue
		}
		for i := range p.Rules {
			s.rules = append(s.rules, newRule(p, i))
		}
	}
	if err := errors.Join(errs...); err != nil {
		var first *authz.FieldError
		errors.As(err, &first)
		return Closed(first.Policy.String() + " rejected"), err
	}
	slices.SortStableFunc(s.rules, func(a, b rule) int {
		return cmp.Or(cmp.Compare(a.issuer, b.issuer), cmp.Compare(a.policy.Namespace, b.policy.Namespace), cmp.Compare(a.policy.Name, b.policy.Name))
	})
	for _, r := range s.rules {
		s.outputs = append(s.outputs, r.outputs...)
	}
	slices.Sort(s.outputs)
	s.outputs = slices.Compact(s.outputs)
	return s, nil
}

// Closed returns a Set that refuses everything and names reason in the log. It
// stands for a policy that cannot be enforced as written.
func Closed(reason string) *Set {
	return &Set{closed: deniedPrefix + "closed:" + strings.Join(strings.Fields(reason), "_") + "}"}
}

// Sources returns the sources of keys that s has need of, and how long a fetch
// may take.
func (s *Set) Sources() iter.Seq2[Source, time.Duration] {
	return func(yield func(Source, time.Duration) bool) {
		if s == nil {
			return
		}
		for i := range s.rules {
			if r := &s.rules[i]; r.inline == nil && !yield(r.source, r.timeout) {
				return
			}
		}
	}
}

// admit reports what keeps p from being compiled.
func admit(o Options, p *RequestAuthentication) error {
	if err := validate(p, o.Inlined); err != nil {
		return err
	}
	c := checker{policy: p}
	_, err := authz.Entries(authz.Options{RootNamespace: o.RootNamespace}, p.attached())
	c.attachment(err)
	for i := range p.Rules {
		c.safe(ruleField(i), &p.Rules[i])
	}
	return errors.Join(c.errs...)
}

// newRule compiles a rule, which has been validated.
func newRule(p *RequestAuthentication, i int) rule {
	in := &p.Rules[i]
	r := rule{policy: p, index: i, issuer: in.Issuer, source: in.source(), timeout: in.Timeout, forward: in.ForwardOriginalToken}
	if in.JWKS != "" {
		r.inline, _ = ParseKeys([]byte(in.JWKS))
	}
	if r.timeout == 0 {
		r.timeout = DefaultTimeout
	}
	for _, aud := range in.Audiences {
		if r.audiences == nil {
			r.audiences = map[string]bool{}
		}
		r.audiences[bareAudience(aud)] = true
	}
	r.locations(in)
	if r.payload = strings.ToLower(in.OutputPayloadToHeader); r.payload != "" {
		r.outputs = append(r.outputs, r.payload)
	}
	for _, o := range in.OutputClaimToHeaders {
		c := claim{strings.ToLower(o.Header), strings.Split(o.Claim, ".")}
		r.claims = append(r.claims, c)
		r.outputs = append(r.outputs, c.field)
	}
	r.words = append(slices.Clone(wordClaims), in.SpaceDelimitedClaims...)
	slices.Sort(r.words)
	r.words = slices.Compact(r.words)
	text, _ := json.Marshal([]any{r.payload, in.OutputClaimToHeaders, r.words})
	r.shape = sha256.Sum256(text)
	return r
}

// locations sets where r looks, in Envoy's order: by the name and prefix of a
// field, written one after the other.
func (r *rule) locations(in *Rule) {
	headers := map[string]Header{}
	for _, h := range in.FromHeaders {
		h.Name = strings.ToLower(h.Name)
		headers[h.Name+h.Prefix] = h
	}
	r.params = slices.Compact(slices.Sorted(slices.Values(in.FromParams)))
	r.cookies = slices.Compact(slices.Sorted(slices.Values(in.FromCookies)))
	if len(headers)+len(r.params)+len(r.cookies) == 0 {
		headers[""] = Header{Name: "authorization", Prefix: "Bearer "}
		r.params = []string{"access_token"}
	}
	for _, k := range slices.Sorted(maps.Keys(headers)) {
		r.headers = append(r.headers, headers[k])
	}
}

// bareAudience returns an audience without the scheme of a URL and without a
// slash at its end: in both, those do not matter.
func bareAudience(aud string) string {
	bare, http := strings.CutPrefix(aud, "http://")
	if !http {
		bare = strings.TrimPrefix(aud, "https://")
	}
	return strings.TrimSuffix(bare, "/")
}
