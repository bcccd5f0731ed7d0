package lint_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/authztest"
	"github.com/waystone-mesh/waystone/authz/lint"
	"github.com/waystone-mesh/waystone/internal/script"
)

// The scripts in testdata say what is found. Their commands are
//
//	options  trust-domain=td root=ns providers=a,b:http
//	world    what exists, a line each; without any, nothing is known:
//	         service ns/name waypoint=ns/name 80/http 81:8081/tcp 82
//	         entry ns/name …
//	         waypoint ns/name class=c account=sa
//	         workload ns/name waypoint=ns/name app=web …
//	         authentication ns/name Service/name, or app=web
//	lint     policies in YAML; the result is the findings
func TestScripts(t *testing.T) {
	script.Run(t, "testdata/*.txt", func(*testing.T) func(*script.Block) string { return new(state).run })
}

type state struct {
	options authz.Options
	world   *lint.World
}

func (s *state) run(b *script.Block) string {
	switch b.Command {
	case "options":
		s.setOptions(b)
		return "ok"
	case "world":
		s.world = nil
		for _, line := range b.Lines() {
			if s.world == nil {
				s.world = &lint.World{}
			}
			s.add(b, strings.Fields(line))
		}
		return "ok"
	case "lint":
		policies, err := authztest.Read([]byte(b.Input), yaml.UnmarshalStrict)
		if err != nil {
			b.Fatalf("%v", err)
		}
		out := ""
		for _, f := range lint.Lint(s.options, policies, s.world) {
			out += f.String() + "\n"
		}
		return out
	}
	b.Fatalf("unknown command %q", b.Command)
	return ""
}

func (s *state) setOptions(b *script.Block) {
	s.options = authz.Options{}
	for _, arg := range b.Args {
		name, value, _ := strings.Cut(arg, "=")
		switch name {
		case "trust-domain":
			s.options.TrustDomain = value
		case "root":
			s.options.RootNamespace = value
		case "providers":
			s.options.Providers = map[string]*authz.Provider{}
			for _, p := range strings.Split(value, ",") {
				p, httpOnly := strings.CutSuffix(p, ":http")
				s.options.Providers[p] = &authz.Provider{Name: p}
				if httpOnly {
					s.options.Providers[p].Kind = authz.HTTP
				}
			}
		default:
			b.Fatalf("unknown option %q", name)
		}
	}
}

func ref(s string) lint.Ref {
	ns, name, _ := strings.Cut(s, "/")
	return lint.Ref{Namespace: ns, Name: name}
}

// add adds what a line of a world says.
func (s *state) add(b *script.Block, words []string) {
	kind, at := words[0], ref(words[1])
	named := map[string]string{}
	var ports []lint.Port
	for _, w := range words[2:] {
		if name, value, ok := strings.Cut(w, "="); ok {
			named[name] = value
		} else if kind != "authentication" {
			ports = append(ports, port(b, w))
		}
	}
	waypoint := ref(named["waypoint"])
	delete(named, "waypoint")
	w := s.world
	switch kind {
	case "service":
		w.Services = append(w.Services, lint.Service{Kind: "Service", Namespace: at.Namespace, Name: at.Name, Waypoint: waypoint, Ports: ports})
	case "entry":
		w.Services = append(w.Services, lint.Service{Kind: "ServiceEntry", Namespace: at.Namespace, Name: at.Name, Waypoint: waypoint, Ports: ports})
	case "waypoint":
		w.Waypoints = append(w.Waypoints, lint.Waypoint{Namespace: at.Namespace, Name: at.Name, Class: named["class"], ServiceAccount: named["account"]})
	case "workload":
		w.Workloads = append(w.Workloads, lint.Workload{Namespace: at.Namespace, Name: at.Name, Waypoint: waypoint, Labels: named})
	case "authentication":
		a := lint.Authentication{Namespace: at.Namespace, Name: at.Name}
		for _, target := range words[2:] {
			kind, name, ok := strings.Cut(target, "/")
			if !ok {
				a.Selector = named
				continue
			}
			a.TargetRefs = append(a.TargetRefs, authz.TargetRef{Kind: kind, Name: name})
		}
		w.Authentications = append(w.Authentications, a)
	default:
		b.Fatalf("there is no %q in a world", kind)
	}
}

func port(b *script.Block, w string) (p lint.Port) {
	numbers, protocol, _ := strings.Cut(w, "/")
	number, target, _ := strings.Cut(numbers, ":")
	if target == "" {
		target = number
	}
	n, err1 := strconv.ParseUint(number, 10, 16)
	t, err2 := strconv.ParseUint(target, 10, 16)
	if err1 != nil || err2 != nil {
		b.Fatalf("%q is not a port", w)
	}
	return lint.Port{Number: uint16(n), Target: uint16(t), Protocol: map[string]lint.Protocol{"http": lint.HTTP, "tcp": lint.TCP}[protocol]}
}

// A rule that is said to be of no use can go, and no verdict changes.
func TestWhatIsOfNoUseCanGo(t *testing.T) {
	rnd := rand.New(rand.NewPCG(41, 41))
	draw := func(n int) *authztest.Random {
		data := make([]byte, n)
		for i := range data {
			data[i] = byte(rnd.UintN(256))
		}
		return &authztest.Random{Bytes: data}
	}
	removed := map[lint.Check]int{}
	for range 1500 {
		o := draw(8).Options()
		o.L4 = false
		var policies []*authz.Policy
		for i, p := range append(draw(300).Policies(), draw(300).Policies()...) {
			p.Name = fmt.Sprintf("p%d", i)
			p.TargetRefs = []authz.TargetRef{{Kind: "Service", Name: "web"}}
			policies = append(policies, p)
		}
		before, err := authz.Compile(o, policies...)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range lint.Lint(o, policies, nil) {
			if f.Check != lint.Shadowed && f.Check != lint.NeverAllows && (f.Check != lint.NeverMatches || !strings.HasSuffix(f.Field, "]") || strings.Contains(f.Field, ".to") || strings.Contains(f.Field, ".from") || strings.Contains(f.Field, ".when")) {
				continue
			}
			after, err := authz.Compile(o, without(t, policies, f)...)
			if err != nil {
				continue // it was the only rule of a DENY policy
			}
			removed[f.Check]++
			for range 60 {
				in := draw(60).Input()
				if f.Check == lint.NeverMatches && in.HTTP == nil {
					continue // that is said about requests
				}
				x, y := before.Decide(in), after.Decide(in)
				if x.Allowed != y.Allowed || x.Audit != y.Audit || x.DryRun.Deny.Result != y.DryRun.Deny.Result || x.DryRun.Allow.Result != y.DryRun.Allow.Result {
					b, _ := json.MarshalIndent(policies, "", " ")
					t.Fatalf("%s\n%s\non %+v: got %+v, was %+v", f, b, in, y, x)
				}
			}
		}
	}
	if removed[lint.Shadowed] < 30 || removed[lint.NeverAllows] < 5 || removed[lint.NeverMatches] < 5 {
		t.Errorf("removed %v: the test shows little", removed)
	}
}

// without returns policies without the rule that a finding is about.
func without(t *testing.T, policies []*authz.Policy, f lint.Finding) (out []*authz.Policy) {
	t.Helper()
	for _, p := range policies {
		if p.Namespace+"/"+p.Name == f.Policy {
			var rule int
			if _, err := fmt.Sscanf(f.Field, "spec.rules[%d]", &rule); err != nil {
				t.Fatal(err)
			}
			q := *p
			q.Rules = append(append([]authz.Rule{}, p.Rules[:rule]...), p.Rules[rule+1:]...)
			p = &q
		}
		out = append(out, p)
	}
	return out
}
