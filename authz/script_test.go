package authz_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/authztest"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/script"
	"github.com/waystone-mesh/waystone/routing"
)

// The scripts in testdata say what policies mean. Their commands are
//
//	policy   the input is policies in YAML, added to those before it; the result
//	         is "ok" or what is wrong with them
//	options  trust-domain=td aliases=a,b l4 root=ns providers=a,b:http: as whom
//	         to compile; paths=BASE: what is done to the paths of checks before
//	reset    forget all policies
//	check    name=value…: a request; the result is its verdict. Names are
//	         principal, source, dest, sni, method, host, path and the names of
//	         header fields. With none of the HTTP ones it is a connection.
//	         Where a provider must be asked, it says yes, and the verdict follows.
//	explain  the same; the result is its explanation. So of json, and of line, in
//	         one line.
//	         token={…} gives the claims of a valid JWT, in JSON without blanks.
func TestScripts(t *testing.T) {
	script.Run(t, "testdata/*.txt", func(*testing.T) func(*script.Block) string { return new(world).run })
}

// A world is what a script has set up.
type world struct {
	options   authz.Options
	policies  []*authz.Policy
	normalize func(path string) (string, error) // nil: paths come as they are
}

func (w *world) run(b *script.Block) string {
	switch b.Command {
	case "policy":
		return w.policy(b.Input)
	case "options":
		return w.setOptions(b)
	case "reset":
		w.policies = nil
		return "ok"
	case "check":
		return w.check(b)
	case "explain":
		return w.explain(b).String()
	case "line":
		return w.line(b)
	case "json":
		out, _ := json.MarshalIndent(w.explain(b), "", "  ")
		return string(out)
	}
	b.Fatalf("unknown command %q", b.Command)
	return ""
}

func (w *world) policy(text string) string {
	policies, err := authztest.Read([]byte(text), yaml.UnmarshalStrict)
	if err != nil {
		return "unreadable: " + strings.TrimSpace(err.Error())
	}
	for _, p := range policies {
		if err := authz.Validate(p); err != nil {
			return "invalid: " + err.Error()
		}
	}
	w.policies = append(w.policies, policies...)
	if _, err := authz.Compile(w.options, w.policies...); err != nil {
		return "rejected: " + err.Error()
	}
	return "ok"
}

func (w *world) setOptions(b *script.Block) string {
	w.options, w.normalize = authz.Options{}, nil
	for _, arg := range b.Args {
		name, value, _ := strings.Cut(arg, "=")
		switch name {
		case "trust-domain":
			w.options.TrustDomain = value
		case "aliases":
			w.options.Aliases = strings.Split(value, ",")
		case "root":
			w.options.RootNamespace = value
		case "providers":
			w.options.Providers = map[string]*authz.Provider{}
			for _, name := range strings.Split(value, ",") {
				name, httpOnly := strings.CutSuffix(name, ":http")
				w.options.Providers[name] = &authz.Provider{Name: name}
				if httpOnly {
					w.options.Providers[name].Kind = authz.HTTP
				}
			}
		case "l4":
			w.options.L4 = true
		case "paths":
			n, err := routing.ParseNormalization(value)
			if err != nil {
				b.Fatalf("%v", err)
			}
			w.normalize = func(path string) (string, error) { return routing.Normalize(n, path) }
		default:
			b.Fatalf("unknown option %q", name)
		}
	}
	return "ok"
}

func (w *world) check(b *script.Block) string {
	in, err := input(append(b.Args, strings.Fields(b.Input)...))
	if err != nil {
		b.Fatalf("%v", err)
	}
	if w.normalize != nil && in.HTTP != nil {
		if in.HTTP.Path, err = w.normalize(in.HTTP.Path); err != nil {
			return "400 " + err.Error()
		}
	}
	set, _ := authz.Compile(w.options, w.policies...)
	v := set.Check(in)
	if v.Ask == nil {
		return verdict(v)
	}
	out := ""
	for q := v.Ask; q != nil; q = set.Ask(in, q) {
		out += "ask " + q.Provider + ": " + q.ID + "\n"
	}
	return out + "then " + verdict(set.Decide(in))
}

func (w *world) explain(b *script.Block) *authz.Explanation {
	in, err := input(append(b.Args, strings.Fields(b.Input)...))
	if err != nil {
		b.Fatalf("%v", err)
	}
	set, _ := authz.Compile(w.options, w.policies...)
	x := set.Explain(in)
	if v := set.Decide(in); x.Allowed != v.Allowed || x.Details != v.Details() {
		b.Fatalf("the explanation is of another verdict: %+v", v)
	}
	return x
}

// line is of Brief, which Explain has to agree with.
func (w *world) line(b *script.Block) string {
	in, _ := input(append(b.Args, strings.Fields(b.Input)...))
	set, _ := authz.Compile(w.options, w.policies...)
	x := set.Brief(in)
	if x.Policies != nil || x.Line() != w.explain(b).Line() {
		b.Fatalf("Brief says %q", x.Line())
	}
	return x.Line()
}

func verdict(v authz.Verdict) string {
	out := "denied " + v.Details()
	if v.Allowed {
		out = "allowed"
		if v.Policy != nil {
			out += fmt.Sprintf(" by %s/%s rule %d", v.Policy.Namespace, v.Policy.Name, v.Rule)
		}
	}
	if v.Audit {
		out += " audit"
	}
	for _, dry := range []struct {
		action string
		authz.Outcome
	}{{"deny", v.DryRun.Deny}, {"allow", v.DryRun.Allow}} {
		if dry.Result != authz.Unknown {
			out += fmt.Sprintf(" dry-run-%s=%s[%s]", dry.action, dry.Result, dry.ID)
		}
	}
	for i := range v.Trials.Len() {
		t, allowed := v.Trials.At(i)
		out += fmt.Sprintf(" trial=%s[%s for %s", map[bool]string{true: "allow", false: "deny"}[allowed], t.Policy, t.Replaces)
		if !t.InForce {
			out += " not in force"
		}
		out += "]"
	}
	return out
}

func token(claims string) *authz.Token {
	var m map[string]any
	if err := json.Unmarshal([]byte(claims), &m); err != nil {
		panic(err) // a script is wrong
	}
	return authz.NewToken(m)
}

// input reads the arguments of check. The request is from 10.0.0.1 to
// 10.96.0.1:80, of a peer without a certificate, unless they say otherwise.
func input(words []string) (in *authz.Input, err error) {
	in = &authz.Input{Source: netip.MustParseAddr("10.0.0.1"), Dest: netip.MustParseAddrPort("10.96.0.1:80")}
	http := l7.Request{Method: "GET", Scheme: "http", Authority: "web.example.com", Path: "/"}
	for _, w := range words {
		name, value, ok := strings.Cut(w, "=")
		if !ok {
			return nil, fmt.Errorf("%q is not of the form name=value", w)
		}
		switch name {
		case "principal":
			in.Peer, err = identity.Parse("spiffe://" + value)
		case "source":
			in.Source, err = netip.ParseAddr(value)
		case "dest":
			in.Dest, err = netip.ParseAddrPort(value)
		case "sni":
			in.SNI = value
		case "token":
			in.HTTP, in.Token = &http, token(value)
		case "method":
			in.HTTP, http.Method = &http, value
		case "host":
			in.HTTP, http.Authority = &http, value
		case "path":
			in.HTTP, http.Path = &http, value
		default:
			in.HTTP = &http
			http.Fields = append(http.Fields, l7.Field{Name: name, Value: strings.ReplaceAll(value, "_", " ")})
		}
		if err != nil {
			return nil, err
		}
	}
	return in, nil
}
