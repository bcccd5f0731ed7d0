package jwt_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/script"
)

// The scripts in testdata say what policies mean. Their commands are
//
//	policy   the input is a policy in YAML, added to those before it; the result
//	         is "ok" or what is wrong with them
//	keys     URI, or issuer=ISSUER: the input is the key set that was fetched
//	         there; the result is what cannot be used of it. gone: there is none
//	         any more
//	now      the time, in seconds since 1970; 1000000000 to begin with
//	reset    forget all policies
//	check    the input is the head of a request; the result is the verdict and
//	         what goes on. With claims, the claims that policies see are told.
//
// In any input, <set NAME…> is a key set with keys of testdata/keys.json, whose
// ID is their name; NAME,kid=,alg=RS256 changes members. <NAME {…}> is a token
// with these claims that is signed by a key, <NAME {…} {…}> one with these
// members in its header as well, and <b64 TEXT> is TEXT in base64url.
func TestScripts(t *testing.T) {
	script.Run(t, "testdata/*.txt", func(*testing.T) func(*script.Block) string {
		return (&world{now: 1e9, ring: jwt.Ring{}, verifier: jwt.NewVerifier(jwt.Limits{})}).run
	})
}

// A world is what a script has set up.
type world struct {
	policies []*jwt.RequestAuthentication
	ring     jwt.Ring
	now      int64
	verifier *jwt.Verifier
	tokens   []string // each followed by how the script has it
}

func (w *world) run(b *script.Block) string {
	b.Input = w.expand(b)
	switch b.Command {
	case "policy":
		return w.policy(b.Input)
	case "keys":
		return w.keys(b)
	case "now":
		now, err := strconv.ParseInt(b.Args[0], 10, 64)
		if err != nil {
			b.Fatalf("%v", err)
		}
		w.now = now
		return "ok"
	case "reset":
		w.policies = nil
		return "ok"
	case "check":
		return w.check(b)
	}
	b.Fatalf("unknown command %q", b.Command)
	return ""
}

var macro = regexp.MustCompile(`<(\w+) ([^<>]*)>`)

// expand replaces what is in angle brackets, the innermost first.
func (w *world) expand(b *script.Block) string {
	return macro.ReplaceAllStringFunc(b.Input, func(text string) string {
		m := macro.FindStringSubmatch(text)
		switch m[1] {
		case "set":
			return keySet(b, strings.Fields(m[2]))
		case "b64":
			return base64url(m[2])
		}
		var parts []map[string]any
		for d := json.NewDecoder(strings.NewReader(m[2])); ; {
			var part map[string]any
			if err := d.Decode(&part); err != nil {
				break
			}
			parts = append(parts, part)
		}
		header := map[string]any{}
		if len(parts) == 2 {
			header = parts[0]
		} else if len(parts) != 1 {
			b.Fatalf("%s: neither claims nor a header and claims", text)
		}
		token := sign(b, m[1], header, parts[len(parts)-1])
		w.tokens = append(w.tokens, token, text)
		return token
	})
}

// An object is what YAML says of a policy.
type object struct {
	Metadata struct{ Name, Namespace string }
	Spec     struct {
		Selector   *struct{ MatchLabels map[string]string }
		TargetRefs []authz.TargetRef
		JwtRules   []struct {
			jwt.Rule
			Timeout string
		}
	}
}

func read(text string) (*jwt.RequestAuthentication, error) {
	var o object
	if err := yaml.UnmarshalStrict([]byte(text), &o); err != nil {
		return nil, err
	}
	p := &jwt.RequestAuthentication{Name: o.Metadata.Name, Namespace: o.Metadata.Namespace, TargetRefs: o.Spec.TargetRefs}
	if o.Spec.Selector != nil {
		p.Selector = map[string]string{}
		for k, v := range o.Spec.Selector.MatchLabels {
			p.Selector[k] = v
		}
	}
	for _, r := range o.Spec.JwtRules {
		if r.Timeout != "" {
			timeout, err := time.ParseDuration(r.Timeout)
			if err != nil {
				return nil, err
			}
			r.Rule.Timeout = timeout
		}
		p.Rules = append(p.Rules, r.Rule)
	}
	return p, nil
}

func (w *world) policy(text string) string {
	p, err := read(text)
	if err != nil {
		return "unreadable: " + err.Error()
	}
	if err := jwt.Validate(p); err != nil {
		return "invalid: " + err.Error()
	}
	w.policies = append(w.policies, p)
	set, err := jwt.Compile(jwt.Options{}, w.policies...)
	if err != nil {
		if !errors.Is(err, authz.ErrUnsupported) {
			return "rejected: " + err.Error()
		}
		return "unsupported: " + err.Error()
	}
	out := "ok"
	for source, timeout := range set.Sources() {
		if w.ring[source] == nil {
			out += fmt.Sprintf("\nneeds uri=%q issuer=%q within %v", source.URI, source.Issuer, timeout)
		}
	}
	return out
}

func (w *world) keys(b *script.Block) string {
	source := jwt.Source{URI: b.Args[0]}
	if issuer, ok := strings.CutPrefix(b.Args[0], "issuer="); ok {
		source = jwt.Source{Issuer: issuer}
	}
	if len(b.Args) > 1 && b.Args[1] == "gone" {
		delete(w.ring, source)
		return "ok"
	}
	keys, err := jwt.ParseKeys([]byte(b.Input))
	if keys != nil {
		w.ring[source] = keys
	}
	switch {
	case err != nil && keys == nil:
		return "unreadable: " + err.Error()
	case err != nil:
		return fmt.Sprintf("%d keys; %v", keys.Len(), err)
	}
	return "ok"
}

// check checks a request with a verifier that knows nothing and twice with one
// that may: the results are to be the same.
func (w *world) check(b *script.Block) string {
	set, _ := jwt.Compile(jwt.Options{}, w.policies...)
	forgetful := w.result(b, set, nil)
	for range 2 {
		if remembered := w.result(b, set, w.verifier); remembered != forgetful {
			b.Fatalf("got %s\nwithout memory, and with it\n%s", forgetful, remembered)
		}
	}
	return forgetful
}

func (w *world) result(b *script.Block, set *jwt.Set, v *jwt.Verifier) string {
	req := request(b)
	res := set.Check(time.Unix(w.now, 0), req, w.ring, v)
	if !res.Allowed {
		out := fmt.Sprintf("%d %s\nwww-authenticate: %s\ndetails: %s\n", res.Reason.Status(), res.Reason, res.Challenge(req), res.Details())
		if res.Policy != nil {
			out += fmt.Sprintf("by: %s/%s rule %d\n", res.Policy.Namespace, res.Policy.Name, res.Rule)
		}
		return w.plain(out)
	}
	out := "allowed"
	if res.Token != nil {
		out += fmt.Sprintf(" iss=%s sub=%s", res.Token.Issuer, res.Token.Subject)
		if len(b.Args) > 0 && b.Args[0] == "claims" {
			claims, _ := json.Marshal(res.Token.Claims)
			out += " claims=" + string(claims)
		}
	}
	res.Apply(req)
	out += "\n" + req.Method + " " + req.Path + "\n"
	for _, f := range req.Fields {
		out += f.Name + ": " + f.Value + "\n"
	}
	return w.plain(out)
}

// plain writes the tokens in out as the script has them.
func (w *world) plain(out string) string { return strings.NewReplacer(w.tokens...).Replace(out) }

// request reads a head: the method and the path, and then the fields.
func request(b *script.Block) *l7.Request {
	lines := b.Lines()
	if len(lines) == 0 {
		b.Fatalf("a request is missing")
	}
	method, path, _ := strings.Cut(lines[0], " ")
	req := &l7.Request{Method: method, Scheme: "http", Authority: "items", Path: path}
	for _, line := range lines[1:] {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			b.Fatalf("%q is not a field", line)
		}
		req.Fields = append(req.Fields, l7.Field{Name: name, Value: strings.TrimSpace(value)})
	}
	return req
}
