package policy

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/authztest"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// logged writes a line as ours and Istio's waypoints do. Fields that are nil are
// null, and those in without are not there.
func logged(fields map[string]any, without ...string) string {
	m := map[string]any{
		"method": "GET", "path": "/cart/1", "authority": "cart:8080", "user_agent": nil, "x_forwarded_for": nil, "response_code": 200,
		"response_code_details": "via_upstream", "connection_termination_details": nil, "response_flags": "-",
		"upstream_host": "envoy://connect_originate/10.244.1.12:8080", "upstream_cluster": "inbound-vip|8080|http|cart.shop.svc.cluster.local",
		"downstream_local_address": "10.96.20.11:8080", "downstream_remote_address": "10.244.1.11:41000", "requested_server_name": nil,
		"source_principal": "spiffe://cluster.local/ns/shop/sa/storefront", "request_principal": nil,
	}
	for k, v := range fields {
		m[k] = v
	}
	for _, k := range without {
		delete(m, k)
	}
	text, _ := json.Marshal(m)
	return string(text) + "\n"
}

func replay(t testing.TB, o ReplayOptions, text string) *Outcome {
	t.Helper()
	if o.By == nil {
		o.By = []string{"policy"}
	}
	out, err := Replay(t.Context(), o, Log{"log", strings.NewReader(text)})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// one returns what a line comes to: same, or a change, its policy, and for want of
// what it is undetermined.
func one(t testing.TB, o ReplayOptions, line string) string {
	t.Helper()
	out := replay(t, o, line)
	switch {
	case out.SameAllowed == 1:
		return "same: allowed"
	case out.SameDenied == 1:
		return "same: denied"
	case out.NotJudged == 1:
		return "never judged"
	case len(out.Rows) == 1:
		r := out.Rows[0]
		return strings.TrimSuffix(fmt.Sprintf("%s: %s: %s", r.Change, r.By["policy"], r.Missing), ": ")
	}
	t.Fatalf("got %+v", out)
	return ""
}

// denied are what a line has of a request that a policy refused.
func denied(by string) map[string]any {
	return map[string]any{"response_code": 403, "response_code_details": "rbac_access_denied_matched_policy[" + by + "]", "upstream_host": nil, "upstream_cluster": nil}
}

func with(a map[string]any, key string, value any) map[string]any {
	out := map[string]any{key: value}
	for k, v := range a {
		out[k] = v
	}
	return out
}

func TestReplayOfOneLine(t *testing.T) {
	onCart := func(spec string) *Mesh {
		return New(Options{}, manifests(allow("p", "Service", "cart", spec)).With(shop(t)))
	}
	storefront := onCart(`rules: [{from: [{source: {serviceAccounts: [storefront]}}], to: [{operation: {methods: [GET], paths: ["/cart/*"]}}]}]`)
	byHeader := onCart("action: DENY\nrules: [{when: [{key: 'request.headers[x-debug]', values: ['*']}], to: [{operation: {methods: [GET]}}]}]")
	byAgent := onCart("rules: [{when: [{key: 'request.headers[User-Agent]', values: ['curl*']}]}]")
	anyAgent := onCart("action: DENY\nrules: [{when: [{key: 'request.headers[User-Agent]', notValues: ['*']}]}]")
	byHost := onCart("rules: [{to: [{operation: {hosts: ['cart:8080']}}]}]")
	byPort := onCart("action: DENY\nrules: [{to: [{operation: {ports: ['8080']}}]}]")
	byIP := onCart("action: DENY\nrules: [{from: [{source: {ipBlocks: [10.244.1.11]}}]}]")
	nothing := onCart("")
	tokened := New(Options{}, manifests(allow("p", "Service", "cart", `rules: [{from: [{source: {requestPrincipals: ["https://i/x/*"]}}]}]`)+`
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: t, namespace: shop}
spec:
  targetRefs: [{kind: Service, group: "", name: cart}]
  jwtRules: [{issuer: https://i/x, jwksUri: https://i/x/keys}]
`).With(shop(t)))
	closed := New(Options{}, manifests(`
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: t, namespace: shop}
spec:
  targetRefs: [{kind: Service, group: "", name: cart}]
  jwtRules: [{jwksUri: "no URL"}]
`).With(shop(t)))
	asks := New(Options{}, manifests(allow("p", "Service", "cart", "action: CUSTOM\nprovider: {name: ext}\nrules: [{to: [{operation: {paths: ['/cart/*']}}]}]")+`
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "extensionProviders: [{name: ext, envoyExtAuthzGrpc: {service: ext.shop.svc.cluster.local, port: 9000}}]"}
`).With(shop(t)))
	for _, tt := range []struct {
		name    string
		o       ReplayOptions
		line    string
		outcome string
	}{
		{"allowed as before", ReplayOptions{New: storefront}, logged(nil), "same: allowed"},
		{"denied as before", ReplayOptions{New: nothing}, logged(denied("none")), "same: denied"},
		{"denied now", ReplayOptions{New: storefront}, logged(map[string]any{"method": "PUT"}), "now denied: (no ALLOW rule)"},
		{"whom it was allowed by", ReplayOptions{New: nothing}, logged(map[string]any{"policy": "ns[shop]-policy[old]-rule[1]"}), "now denied: shop/old, no more"},
		{"allowed now", ReplayOptions{New: storefront}, logged(denied("ns[shop]-policy[old]-rule[0]")), "now allowed: shop/old"},
		{"a 403 of the application's own", ReplayOptions{New: storefront}, logged(map[string]any{"response_code": 403}), "same: allowed"},
		{"a path that is normalised", ReplayOptions{New: storefront}, logged(map[string]any{"path": "/x/../cart/1?y"}), "same: allowed"},
		{"a path that means nothing", ReplayOptions{New: storefront}, logged(map[string]any{"path": "/cart%00"}), "never judged"},
		{"a path that is not UTF-8", ReplayOptions{New: storefront}, logged(map[string]any{"path": "/cart/\ufffd"}), "undetermined: shop/p: path"},
		{"an identity that is not logged", ReplayOptions{New: storefront}, logged(nil, "source_principal"), "undetermined: shop/p: source.serviceAccount"},
		{"that does not matter", ReplayOptions{New: storefront}, logged(map[string]any{"method": "PUT"}, "source_principal"), "now denied: (no ALLOW rule)"},
		{"that there was not", ReplayOptions{New: storefront}, logged(map[string]any{"source_principal": nil}), "now denied: (no ALLOW rule)"},
		{"that is none", ReplayOptions{New: storefront}, logged(map[string]any{"source_principal": "spiffe://x/y"}), "undetermined: shop/p: source.serviceAccount"},
		{"a header that is not logged", ReplayOptions{New: byHeader}, logged(nil), "undetermined: shop/p: request.headers[x-debug]"},
		{"that does not matter either", ReplayOptions{New: byHeader}, logged(map[string]any{"method": "POST"}), "same: allowed"},
		{"one that is", ReplayOptions{New: byAgent}, logged(map[string]any{"user_agent": "curl/8"}), "same: allowed"},
		{"another value", ReplayOptions{New: byAgent}, logged(map[string]any{"user_agent": "wget"}), "now denied: (no ALLOW rule)"},
		{"none", ReplayOptions{New: byAgent}, logged(nil), "now denied: (no ALLOW rule)"},
		{"none, or an empty one", ReplayOptions{New: anyAgent}, logged(nil), "undetermined: shop/p: request.headers[user-agent]"},
		{"no such key", ReplayOptions{New: byAgent}, logged(nil, "user_agent"), "undetermined: shop/p: request.headers[user-agent]"},
		{"the host", ReplayOptions{New: byHost}, logged(nil), "same: allowed"},
		{"the port", ReplayOptions{New: byPort}, logged(nil), "now denied: shop/p"},
		{"the address", ReplayOptions{New: byIP}, logged(nil), "now denied: shop/p"},
		{"an address of old", ReplayOptions{New: byIP}, logged(map[string]any{"downstream_remote_address": "envoy://internal_client_address/"}), "undetermined: shop/p: source.ip"},
		{"a subject", ReplayOptions{New: tokened}, logged(map[string]any{"request_principal": "https://i/x/bob"}), "same: allowed"},
		{"no subject", ReplayOptions{New: tokened}, logged(nil), "now denied: (no ALLOW rule)"},
		{"a subject that is not logged", ReplayOptions{New: tokened}, logged(nil, "request_principal"), "undetermined: shop/p: request.auth.principal"},
		{"a token that was refused", ReplayOptions{New: tokened}, logged(map[string]any{"response_code": 401, "response_code_details": "jwt_authn_access_denied{Jwt_is_expired}", "upstream_host": nil}), "same: denied"},
		{"and is not looked at any more", ReplayOptions{New: storefront}, logged(map[string]any{"response_code": 401, "response_code_details": "jwt_authn_access_denied{Jwt_is_expired}", "upstream_host": nil}), "now allowed: (the JWT)"},
		{"tokens that are verified otherwise", ReplayOptions{New: tokened, Base: storefront}, logged(map[string]any{"request_principal": "https://i/x/bob"}), "undetermined: : the JWT: it may be refused"},
		{"a RequestAuthentication that cannot be enforced", ReplayOptions{New: closed}, logged(nil), "now denied: " + closedPolicy},
		{"an authorizer", ReplayOptions{New: asks}, logged(nil), "undetermined: shop/p: the answer of ext"},
		{"that is not asked", ReplayOptions{New: asks}, logged(map[string]any{"path": "/other"}), "same: allowed"},
		{"that was asked then", ReplayOptions{New: asks, Base: asks}, logged(nil), "same: allowed"},
		{"and had said no", ReplayOptions{New: asks, Base: asks}, logged(map[string]any{"response_code": 403, "response_code_details": "ext_authz_denied", "upstream_host": nil, "response_flags": "UAEX"}), "same: denied"},
		{"a base", ReplayOptions{New: storefront, Base: nothing}, logged(denied("none")), "now allowed: (no ALLOW rule)"},
		{"a base that says otherwise", ReplayOptions{New: storefront, Base: nothing}, logged(nil), "now allowed: (no ALLOW rule)"},
		{"nothing was decided", ReplayOptions{New: storefront}, logged(map[string]any{"response_code": 503, "response_code_details": "overload", "upstream_host": nil}), "undetermined: shop/p: " + notDecided},
		{"no route, or no destination", ReplayOptions{New: storefront}, logged(map[string]any{"response_code": 404, "response_code_details": "route_not_found", "upstream_host": nil, "response_flags": "NR"}), "undetermined: shop/p: " + notDecided},
		{"no endpoint", ReplayOptions{New: storefront}, logged(map[string]any{"response_code": 503, "response_code_details": "no_healthy_upstream", "upstream_host": nil, "response_flags": "UH"}), "same: allowed"},
		{"an address that nothing has", ReplayOptions{New: storefront}, logged(map[string]any{"downstream_local_address": "10.0.0.1:80", "upstream_cluster": nil, "authority": "x"}), "undetermined: : the destination: it is not in the manifests"},
		{"found by the cluster", ReplayOptions{New: storefront}, logged(map[string]any{"downstream_local_address": "172.20.0.9:8080"}), "same: allowed"},
		{"found by the authority", ReplayOptions{New: storefront}, logged(map[string]any{"downstream_local_address": nil, "upstream_cluster": nil, "authority": "cart.shop.svc.cluster.local:8080"}), "same: allowed"},
		{"a name that was dialled", ReplayOptions{New: storefront}, logged(map[string]any{"downstream_local_address": "cart.shop.svc.cluster.local:8080"}), "same: allowed"},
		{"what no waypoint is before", ReplayOptions{New: storefront}, logged(map[string]any{"downstream_local_address": "10.244.2.20:80"}), "undetermined: : the waypoint: the manifests have none before the destination"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := one(t, tt.o, tt.line); got != tt.outcome {
				t.Errorf("got %q, want %q\n%s", got, tt.outcome, tt.line)
			}
		})
	}
}

// Where a request came by a route, the cluster is not what was asked for.
func TestReplayDoesNotTakeABackendForTheDestination(t *testing.T) {
	route := `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{kind: Service, group: "", name: catalog, port: 8080}]
  rules:
  - filters: [{type: URLRewrite, urlRewrite: {hostname: other.example}}]
    backendRefs: [{name: cart, port: 8080}]
`
	m := New(Options{}, manifests(route+allow("p", "Service", "catalog", "rules: [{to: [{operation: {hosts: ['catalog:8080']}}]}]")).With(shop(t)))
	if got := one(t, ReplayOptions{New: m}, logged(map[string]any{"downstream_local_address": "172.20.0.9:8080", "authority": "x"})); !strings.Contains(got, "the destination") {
		t.Errorf("got %q", got)
	}
	// Nor is the authority what it was.
	if got, want := one(t, ReplayOptions{New: m}, logged(map[string]any{"downstream_local_address": "10.96.20.12:8080"})), "undetermined: shop/p: host"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestReplayOfConnections(t *testing.T) {
	m := New(Options{}, manifests(allow("p", "Service", "orders-db", "rules: [{from: [{source: {serviceAccounts: [orders]}}]}]")).With(shop(t)))
	tcp := map[string]any{"method": nil, "path": nil, "authority": nil, "response_code": 0, "response_code_details": nil, "downstream_local_address": "10.96.20.14:5432", "source_principal": "spiffe://cluster.local/ns/shop/sa/orders"}
	if got := one(t, ReplayOptions{New: m}, logged(tcp)); got != "same: allowed" {
		t.Errorf("got %q", got)
	}
	refused := with(with(tcp, "connection_termination_details", "rbac_access_denied_matched_policy[none]"), "upstream_host", nil)
	if got, want := one(t, ReplayOptions{New: m}, logged(refused)), "now allowed: (no ALLOW rule)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Lines that are no lines of the log are counted, and the rest is read: whatever
// the pieces that they come in.
func TestReplayReadsOn(t *testing.T) {
	m := load(t, examples)
	var text strings.Builder
	want := int64(0)
	for i := range 3000 {
		switch i % 1000 {
		case 10:
			text.WriteString("no JSON\n")
		case 20:
			text.WriteString("\n")
		case 30:
			text.WriteString(`{"path":"` + strings.Repeat("x", 3*chunkSize) + "\"}\n")
		default:
			text.WriteString(logged(nil))
			want++
		}
	}
	text.WriteString(strings.TrimSuffix(logged(nil), "\n"))
	for _, workers := range []int{1, 4} {
		out := replay(t, ReplayOptions{New: m, Workers: workers}, text.String())
		if out.Requests != want+1 || out.SameAllowed != want+1 || out.Malformed != 6 || len(out.BadLines) != 5 {
			t.Fatalf("got %+v, want %d requests", out, want+1)
		}
		for i, line := range []int64{11, 31, 1011, 1031, 2011} {
			if bad := out.BadLines[i]; bad.Line != line || (i%2 == 1) != (bad.Reason == errTooLong.Error()) {
				t.Errorf("got %+v, want line %d", bad, line)
			}
		}
	}
}

func TestReplayUnzips(t *testing.T) {
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, _ = w.Write([]byte(logged(nil)))
	_ = w.Close()
	m := load(t, examples)
	if out := replay(t, ReplayOptions{New: m}, zipped.String()); out.SameAllowed != 1 {
		t.Errorf("got %+v", out)
	}
	cut := zipped.String()[:zipped.Len()-4]
	if _, err := Replay(t.Context(), ReplayOptions{New: m}, Log{"cut.gz", strings.NewReader(cut)}); err == nil || !strings.Contains(err.Error(), "cut.gz") {
		t.Errorf("got %v", err)
	}
}

// What is counted is bounded, whatever the log says.
func TestReplayCountsTogetherWhatIsTooMuch(t *testing.T) {
	m := New(Options{}, manifests(allow("p", "Service", "cart", "")).With(shop(t)))
	var text strings.Builder
	for i := range maxRows + 500 {
		text.WriteString(logged(map[string]any{"path": "/" + strings.Repeat("ghi", 1+i%7) + "/" + word(i)}))
	}
	out := replay(t, ReplayOptions{New: m, By: []string{"path"}, Workers: 1}, text.String())
	if len(out.Rows) != maxRows+1 || out.NowDenied != maxRows+500 || out.Rows[0].By["path"] != others || out.Rows[0].Count != 500 {
		t.Errorf("%d rows of %d, the first %+v", len(out.Rows), out.NowDenied, out.Rows[0])
	}
}

// word spells a number in letters that are no digits.
func word(n int) string {
	out := []byte{'g' + byte(n%20)}
	for n /= 20; n > 0; n /= 20 {
		out = append(out, 'g'+byte(n%20))
	}
	return string(out)
}

func TestPathsAreTemplated(t *testing.T) {
	for path, want := range map[string]string{
		"/":                 "/",
		"/a/b":              "/a/b",
		"/cart/17?x=1":      "/cart/{*}",
		"/17":               "/{*}",
		"/v1/cart/17/items": "/v1/cart/{*}/items",
		"/o/6f3f7f3e-0f1d-4d3e-9c55-000000000037": "/o/{*}",
		"/o/deadbeef":                   "/o/deadbeef",
		"/o/d34db33f":                   "/o/{*}",
		"/f/" + strings.Repeat("x", 41): "/f/{*}",
		"/a//b/":                        "/a//b/",
		"/1//2/":                        "/{*}//{*}/",
		"":                              "",
	} {
		if got := templated(path); got != want {
			t.Errorf("%q: got %q, want %q", path, got, want)
		}
	}
}

// On a log that has all that is asked for, what is replayed is what Check says; and
// on any other it is that, or undetermined.
func TestReplayIsCheck(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 9))
	draw := func() *authztest.Random {
		data := make([]byte, 300)
		for i := range data {
			data[i] = byte(rnd.UintN(256))
		}
		return &authztest.Random{Bytes: data}
	}
	var determined, undetermined int
	objects := shop(t)
	for range 200 {
		m := New(Options{}, objects)
		var policies []*authz.Policy
		for i, p := range draw().Policies() {
			if p.Action == authz.Custom || p.DryRun {
				continue
			}
			p.Name, p.Namespace, p.TargetRefs = fmt.Sprintf("p%d", i), "shop", []authz.TargetRef{{Kind: "Service", Name: "cart"}}
			if _, err := authz.Compile(authz.Options{}, p); err != nil {
				continue
			}
			policies = append(policies, p)
			m.updates = append(m.updates, config.Update{Value: p})
		}
		set, err := authz.Compile(authz.Options{}, policies...)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			in := draw().Input()
			if in.HTTP == nil || in.HTTP.Path == "*" || strings.Contains(in.HTTP.Path, "#") {
				continue
			}
			in.Dest, in.Token, in.SNI = netipPort("10.96.20.11:8080"), nil, ""
			in.HTTP.Fields = l7.Fields{{Name: "user-agent", Value: "v"}}
			fields := map[string]any{"method": in.HTTP.Method, "path": in.HTTP.Path, "authority": in.HTTP.Authority, "user_agent": "v",
				"downstream_remote_address": netipAddrPort(in.Source), "source_principal": in.Peer.String()}
			if in.Peer.IsZero() {
				fields["source_principal"] = nil
			}
			got := one(t, ReplayOptions{New: m, Workers: 1}, logged(fields))
			want := set.Check(in).Allowed
			switch {
			case strings.HasPrefix(got, "undetermined"):
				undetermined++
				if !strings.Contains(got, "request.headers[") {
					t.Fatalf("got %q of %s", got, logged(fields))
				}
			case (got == "same: allowed") != want:
				t.Fatalf("got %q, allowed %t: %s\nrefused: %v", got, want, logged(fields), m.Problems())
			default:
				determined++
			}
		}
	}
	if determined < 1000 || undetermined < 20 {
		t.Errorf("%d determined, %d not: the test shows little", determined, undetermined)
	}
}

func TestReplayTellsProgress(t *testing.T) {
	var lines atomic.Int64
	o := ReplayOptions{New: load(t, examples), Progress: func(n, _ int64) { lines.Store(max(lines.Load(), n)) }}
	replay(t, o, strings.Repeat(logged(nil), 5000))
	if lines.Load() != 5000 {
		t.Errorf("got %d lines", lines.Load())
	}
}

func TestReplayColumns(t *testing.T) {
	m := New(Options{}, manifests(allow("p", "Service", "cart", "")).With(shop(t)))
	out := replay(t, ReplayOptions{New: m, By: Columns}, logged(nil))
	want := map[string]string{"principal": "cluster.local/ns/shop/sa/storefront", "path": "/cart/{*}", "policy": noneMatched, "method": "GET", "destination": "Service shop/cart", "status": "200"}
	for k, v := range want {
		if got := out.Rows[0].By[k]; got != v {
			t.Errorf("%s: got %q, want %q", k, got, v)
		}
	}
	for _, by := range [][]string{{"colour"}, {"path", "path"}} {
		if _, err := Replay(t.Context(), ReplayOptions{New: m, By: by}); err == nil {
			t.Errorf("%q is taken", by)
		}
	}
}

// FuzzReplay feeds lines that may be anything: none may panic, and each is counted
// once.
func FuzzReplay(f *testing.F) {
	m := load(f, examples)
	text, err := os.ReadFile(examples + "/test/access.log")
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f.Add(line)
	}
	f.Add(logged(map[string]any{"downstream_local_address": "[::1]:80", "upstream_cluster": "|||", "authority": ":"}))
	f.Fuzz(func(t *testing.T, line string) {
		out := replay(t, ReplayOptions{New: m, Workers: 1, By: Columns}, line)
		sum := out.SameAllowed + out.SameDenied + out.NowAllowed + out.NowDenied + out.Undetermined + out.NotJudged
		if sum != out.Requests {
			t.Errorf("%d of %d: %+v", sum, out.Requests, out)
		}
	})
}

// What is remembered of a line is what is judged of it.
func TestReplayRemembersRightly(t *testing.T) {
	var rules []string
	for i := range 3 * fewRules {
		rules = append(rules, fmt.Sprintf(`{from: [{source: {serviceAccounts: [sa-%d], ipBlocks: [10.0.0.%d]}}], to: [{operation: {methods: [M%d], paths: ["/p%d*"], hosts: [h%d]}}], when: [{key: "request.headers[:path]", values: ["*%d"]}]}`, i%3, i%3, i%2, i%4, i%2, i%5))
	}
	few := func(name string, r []string) string {
		return allow(name, "Service", "cart", "rules: ["+strings.Join(r, ", ")+"]")
	}
	many := New(Options{}, manifests(few("p", rules)).With(shop(t)))
	var parts []*Mesh // the same, a few at a time
	for i := 0; i < len(rules); i += fewRules {
		parts = append(parts, New(Options{}, manifests(few("p", rules[i:i+fewRules])).With(shop(t))))
	}
	var lines []string
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 400 {
		without := []string{}
		if rnd.IntN(6) == 0 {
			without = append(without, "source_principal")
		}
		if rnd.IntN(6) == 0 {
			without = append(without, "authority")
		}
		lines = append(lines, logged(map[string]any{"method": fmt.Sprintf("M%d", rnd.IntN(2)), "path": fmt.Sprintf("/p%d?%d", rnd.IntN(4), rnd.IntN(5)), "authority": fmt.Sprintf("h%d", rnd.IntN(2)),
			"source_principal": fmt.Sprintf("spiffe://cluster.local/ns/shop/sa/sa-%d", rnd.IntN(3)), "downstream_remote_address": fmt.Sprintf("10.0.0.%d:1", rnd.IntN(3))}, without...))
	}
	all := replay(t, ReplayOptions{New: many, Workers: 1}, strings.Join(lines, ""))
	var allowed, unknown int64
	for _, line := range lines {
		best := authz.Denied
		for _, m := range parts {
			switch out := replay(t, ReplayOptions{New: m, Workers: 1}, line); {
			case out.SameAllowed == 1:
				best = authz.Allowed
			case out.Undetermined == 1 && best == authz.Denied:
				best = authz.Unknown
			}
		}
		allowed, unknown = allowed+int64(flag(best == authz.Allowed)), unknown+int64(flag(best == authz.Unknown))
	}
	if all.SameAllowed != allowed || all.Undetermined != unknown || allowed == 0 || unknown == 0 || all.NowDenied == 0 {
		t.Errorf("got %+v, want %d allowed and %d undetermined", all, allowed, unknown)
	}
}

// BenchmarkReplay measures a log like that of the example, held against its
// candidate, from memory.
func BenchmarkReplay(b *testing.B) {
	b.Run("example", func(b *testing.B) { benchmarkReplay(b, load(b, examples, examples+"/candidate")) })
	b.Run("1000rules", func(b *testing.B) {
		var text strings.Builder
		for i := range 100 {
			rule := fmt.Sprintf(`{from: [{source: {serviceAccounts: [sa-%d]}}], to: [{operation: {methods: [GET], paths: ["/cart/%d*"]}}], when: [{key: "request.headers[x]", values: [v]}]}`, i, i)
			text.WriteString(allow(fmt.Sprintf("p%d", i), "Service", "cart", "rules: ["+strings.Repeat(rule+", ", 9)+rule+"]"))
		}
		benchmarkReplay(b, New(Options{}, manifests(text.String()).With(shop(b))))
	})
}

func benchmarkReplay(b *testing.B, m *Mesh) {
	text, err := os.ReadFile(examples + "/test/access.log")
	if err != nil {
		b.Fatal(err)
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	var log bytes.Buffer
	n := 0
	for ; n < 100_000; n++ {
		log.Write(lines[n%(len(lines)-2)])
	}
	b.SetBytes(int64(log.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Replay(b.Context(), ReplayOptions{New: m, By: []string{"principal", "path", "policy"}}, Log{"log", bytes.NewReader(log.Bytes())}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "lines/s")
	b.ReportMetric(float64(runtime.GOMAXPROCS(0)), "cores")
}
