package authz_test

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/authztest"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
)

var rewrite = flag.Bool("rewrite", false, "write the results that the scripts give into them")

// The scripts in testdata say what policies mean. A script is blocks of the form
//
//	command [arguments]
//	input
//	----
//	result
//
// and a blank line. Comments stand between blocks. The commands:
//
//	policy   the input is policies in YAML, added to those before it; the result
//	         is "ok" or what is wrong with them
//	options  trust-domain=td aliases=a,b l4 root=ns: as whom to compile
//	reset    forget all policies
//	check    name=value…: a request; the result is its verdict. Names are
//	         principal, source, dest, sni, method, host, path and the names of
//	         header fields. With none of the HTTP ones it is a connection.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) { runScript(t, name) })
	}
}

// A script is a script being run.
type script struct {
	name     string
	options  authz.Options
	policies []*authz.Policy
}

func runScript(t *testing.T, name string) {
	t.Helper()
	in, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(in, []byte("# ")) {
		t.Errorf("%s: does not begin with a comment that states the rule", name)
	}
	s := script{name: name}
	var out strings.Builder
	lines := strings.Split(strings.TrimRight(string(in), "\n"), "\n")
	for i := 0; i < len(lines); {
		if lines[i] == "" || lines[i][0] == '#' {
			out.WriteString(lines[i] + "\n")
			i++
			continue
		}
		at := i + 1
		var block, want []string
		for ; i < len(lines) && lines[i] != "----"; i++ {
			block = append(block, lines[i])
		}
		for i++; i < len(lines) && lines[i] != ""; i++ {
			want = append(want, lines[i])
		}
		got := s.run(t, at, block)
		if w := strings.Join(want, "\n"); got != w && !*rewrite {
			t.Errorf("%s:%d: %s\ngot  %s\nwant %s", name, at, strings.Join(block, "\n"), got, w)
		}
		out.WriteString(strings.Join(block, "\n") + "\n----\n" + got + "\n")
	}
	if *rewrite && out.String() != string(in) {
		if err := os.WriteFile(name, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *script) run(t *testing.T, line int, block []string) string {
	t.Helper()
	words := strings.Fields(block[0])
	switch words[0] {
	case "policy":
		return s.policy(strings.Join(block[1:], "\n"))
	case "options":
		return s.setOptions(t, line, words[1:])
	case "reset":
		s.policies = nil
		return "ok"
	case "check":
		for _, more := range block[1:] {
			words = append(words, strings.Fields(more)...)
		}
		return s.check(t, line, words[1:])
	}
	t.Fatalf("%s:%d: unknown command %q", s.name, line, words[0])
	return ""
}

func (s *script) policy(text string) string {
	policies, err := authztest.Read([]byte(text), yaml.UnmarshalStrict)
	if err != nil {
		return "unreadable: " + strings.TrimSpace(err.Error())
	}
	for _, p := range policies {
		if err := authz.Validate(p); err != nil {
			return "invalid: " + err.Error()
		}
	}
	s.policies = append(s.policies, policies...)
	if _, err := authz.Compile(s.options, s.policies...); err != nil {
		return "rejected: " + err.Error()
	}
	return "ok"
}

func (s *script) setOptions(t *testing.T, line int, words []string) string {
	t.Helper()
	s.options = authz.Options{}
	for _, w := range words {
		name, value, _ := strings.Cut(w, "=")
		switch name {
		case "trust-domain":
			s.options.TrustDomain = value
		case "aliases":
			s.options.Aliases = strings.Split(value, ",")
		case "root":
			s.options.RootNamespace = value
		case "l4":
			s.options.L4 = true
		default:
			t.Fatalf("%s:%d: unknown option %q", s.name, line, name)
		}
	}
	return "ok"
}

func (s *script) check(t *testing.T, line int, words []string) string {
	t.Helper()
	in, err := input(words)
	if err != nil {
		t.Fatalf("%s:%d: %v", s.name, line, err)
	}
	set, _ := authz.Compile(s.options, s.policies...)
	return verdict(set.Check(in))
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
	return out
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
