package jwtauthn

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// istiod writes this in every provider.
const common = `"payloadInMetadata": "payload", "clearRouteCache": true, "normalizePayloadInMetadata": {"spaceDelimitedClaims": ["permission", "scope"]}`

// keySet has no key that anyone could sign by.
const keySet = `"localJwks": {"inlineString": "{\"keys\":[]}"}`

const (
	oneOrNone  = `{"requiresAny": {"requirements": [{"providerName": "%s"}, {"allowMissing": {}}]}}`
	anyOrNone  = `{"requiresAny": {"requirements": [{"providerName": "a"}, {"providerName": "b"}, {"requiresAll": {"requirements": [%s, %s]}}]}}`
	everything = `{"match": {"prefix": "/"}, "requires": %s}`
)

// filterOf returns a filter with one provider, which has fields.
func filterOf(t testing.TB, fields string) *jwtv3.JwtAuthentication {
	t.Helper()
	return read(t, fmt.Sprintf(`{"bypassCorsPreflight": true, "providers": {"a": {%s}}, "rules": [%s]}`, fields,
		fmt.Sprintf(everything, fmt.Sprintf(oneOrNone, "a"))))
}

func twoProviders(t testing.TB, a, b string) *jwtv3.JwtAuthentication {
	t.Helper()
	requires := fmt.Sprintf(anyOrNone, fmt.Sprintf(oneOrNone, "a"), fmt.Sprintf(oneOrNone, "b"))
	return read(t, fmt.Sprintf(`{"bypassCorsPreflight": true, "providers": {"a": {%s}, "b": {%s}}, "rules": [%s]}`, a, b, fmt.Sprintf(everything, requires)))
}

func read(t testing.TB, text string) *jwtv3.JwtAuthentication {
	t.Helper()
	var f jwtv3.JwtAuthentication
	if err := protojson.Unmarshal([]byte(text), &f); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return &f
}

func TestEveryFieldIsRead(t *testing.T) {
	p, err := Read(filterOf(t, `"issuer": "i", "audiences": ["x", "y"], "forward": true, "forwardPayloadHeader": "x-payload",
		"fromHeaders": [{"name": "x-jwt", "valuePrefix": "B "}], "fromParams": ["tok"], "fromCookies": ["ck"],
		"claimToHeaders": [{"headerName": "x-sub", "claimName": "sub"}], "payloadInMetadata": "payload", "clearRouteCache": true,
		"normalizePayloadInMetadata": {"spaceDelimitedClaims": ["permission", "roles", "scope"]},
		"remoteJwks": {"httpUri": {"uri": "https://i/keys", "cluster": "outbound|443||i", "timeout": "2s"}, "cacheDuration": "300s"}`))
	if err != nil {
		t.Fatal(err)
	}
	want := jwt.Rule{
		Issuer: "i", Audiences: []string{"x", "y"}, JWKSURI: "https://i/keys", Timeout: 2 * time.Second,
		FromHeaders: []jwt.Header{{Name: "x-jwt", Prefix: "B "}}, FromParams: []string{"tok"}, FromCookies: []string{"ck"},
		ForwardOriginalToken: true, OutputPayloadToHeader: "x-payload",
		OutputClaimToHeaders: []jwt.ClaimHeader{{Header: "x-sub", Claim: "sub"}}, SpaceDelimitedClaims: []string{"roles"},
	}
	if len(p.Rules) != 1 || !reflect.DeepEqual(p.Rules[0], want) {
		t.Errorf("got %+v, want %+v", p.Rules, want)
	}
}

func TestKeysMayBeInTheFilter(t *testing.T) {
	const keys = `{"keys":[]}`
	for _, source := range []string{`"localJwks": {"inlineString": "{\"keys\":[]}"}`, `"localJwks": {"inlineBytes": "eyJrZXlzIjpbXX0="}`} {
		p, err := Read(filterOf(t, `"issuer": "i", `+common+`, `+source))
		if err != nil || p.Rules[0].JWKS != keys {
			t.Errorf("%s: got %+v, %v, want %s", source, p, err, keys)
		}
	}
	// A rule with a jwksUri needs no issuer, and istiod may have fetched the keys.
	s, err := Compile(filterOf(t, common+`, `+keySet))
	if err != nil {
		t.Error(err)
	}
	if r := s.Check(time.Unix(1e9, 0), &l7.Request{Method: "GET", Path: "/"}, nil, nil); !r.Allowed {
		t.Errorf("a request without a token is refused: %v", r.Reason)
	}
}

func TestSeveralProvidersAreInTheOrderOfTheirRules(t *testing.T) {
	p, err := Read(twoProviders(t, `"issuer": "i", `+common+`, `+keySet, `"issuer": "j", `+common+`, `+keySet))
	if err != nil {
		t.Fatal(err)
	}
	var issuers []string
	for _, r := range p.Rules {
		issuers = append(issuers, r.Issuer)
	}
	if want := []string{"i", "j"}; !slices.Equal(issuers, want) {
		t.Errorf("got %q, want %q", issuers, want)
	}
}

// A filter that is not understood whole refuses everything.
func TestWhatIsNotCoveredFailsClosed(t *testing.T) {
	plain := `"issuer": "i", ` + common + `, ` + keySet
	change := func(f *jwtv3.JwtAuthentication, change func(*jwtv3.JwtAuthentication)) *jwtv3.JwtAuthentication {
		change(f)
		return f
	}
	newer := protowire.AppendTag(nil, 4000, protowire.VarintType)
	newer = protowire.AppendVarint(newer, 1)
	for _, tt := range []struct {
		filter *jwtv3.JwtAuthentication
		want   string
	}{
		{&jwtv3.JwtAuthentication{}, "bypass_cors_preflight: a preflight"},
		{read(t, `{"bypassCorsPreflight": true}`), "rules: only one rule"},
		{read(t, `{"bypassCorsPreflight": true, "rules": [{"match": {"prefix": "/"}}]}`), "rules: only one rule"},
		{read(t, `{"bypassCorsPreflight": true, "requirementMap": {"x": {}}}`), "filter.requirement_map: is not supported"},
		{read(t, `{"bypassCorsPreflight": true, "stripFailureResponse": true}`), "filter.strip_failure_response: is not supported"},
		{read(t, `{"bypassCorsPreflight": true, "filterStateRules": {"name": "x"}}`), "filter.filter_state_rules: is not supported"},
		{change(filterOf(t, plain), func(f *jwtv3.JwtAuthentication) { f.Rules = append(f.Rules, f.Rules[0]) }), "rules: only one rule"},
		{change(filterOf(t, plain), func(f *jwtv3.JwtAuthentication) { f.Rules[0].Match = nil }), "rules: only one rule"},
		{read(t, fmt.Sprintf(`{"bypassCorsPreflight": true, "providers": {"a": {%s}}, "rules": [{"match": {"prefix": "/"}, "requires": {"providerName": "a"}}]}`, plain)),
			"rules: only one rule"}, // a token is demanded
		{read(t, fmt.Sprintf(`{"bypassCorsPreflight": true, "providers": {"a": {%s}}, "rules": [{"match": {"prefix": "/"}, "requires":
			{"requiresAny": {"requirements": [{"providerName": "a"}, {"allowMissingOrFailed": {}}]}}}]}`, plain)), "rules: only one rule"}, // a bad one is let through
		{read(t, fmt.Sprintf(`{"bypassCorsPreflight": true, "providers": {"b": {%s}}, "rules": [%s]}`, plain, fmt.Sprintf(everything, fmt.Sprintf(oneOrNone, "a")))),
			`"a" is not one provider`},
		{change(filterOf(t, plain), func(f *jwtv3.JwtAuthentication) { f.Providers["z"] = f.Providers["a"] }), "providers: there is one that no rule asks"},
		{twoProviders(t, `"issuer": "j", `+common+`, `+keySet, plain), "rules: providers are asked in the order of their issuers only"},

		{filterOf(t, plain+`, "requireExpiration": true`), "providers[a].require_expiration: is not supported"},
		{filterOf(t, plain+`, "maxLifetime": "60s"`), "providers[a].max_lifetime: is not supported"},
		{filterOf(t, plain+`, "subjects": {"exact": "x"}`), "providers[a].subjects: is not supported"},
		{filterOf(t, plain+`, "clockSkewSeconds": 10`), "providers[a].clock_skew_seconds: is not supported"},
		{filterOf(t, plain+`, "padForwardPayloadHeader": true`), "providers[a].pad_forward_payload_header: is not supported"},
		{filterOf(t, plain+`, "headerInMetadata": "h"`), "providers[a].header_in_metadata: is not supported"},
		{change(filterOf(t, plain), func(f *jwtv3.JwtAuthentication) { f.ProtoReflect().SetUnknown(newer) }), "filter: has a field that is not known"},
		{change(filterOf(t, plain), func(f *jwtv3.JwtAuthentication) { f.Providers["a"].ProtoReflect().SetUnknown(newer) }), "providers[a]: has a field that is not known"},
		{filterOf(t, `"issuer": "i", "clearRouteCache": true, `+keySet), "providers[a].payload_in_metadata: policies look"},
		{filterOf(t, `"issuer": "i", "payloadInMetadata": "payload", `+keySet), "providers[a].clear_route_cache"},
		{filterOf(t, `"issuer": "i", "payloadInMetadata": "payload", "clearRouteCache": true, "normalizePayloadInMetadata": {"spaceDelimitedClaims": ["scope"]}, `+keySet),
			"providers[a].normalize_payload_in_metadata: the claims permission and scope"},
		{filterOf(t, `"issuer": "i", `+common), "providers[a]: has no keys"},
		{filterOf(t, `"issuer": "i", `+common+`, "localJwks": {"filename": "/keys"}`), "providers[a].local_jwks: only keys that are in the filter"},
		{filterOf(t, `"issuer": "i", `+common+`, "remoteJwks": {"httpUri": {}}`), "providers[a].remote_jwks.http_uri.uri: is missing"},
		{filterOf(t, `"issuer": "i", `+common+`, "remoteJwks": {"httpUri": {"uri": "https://i/keys"}, "retryPolicy": {}}`), "providers[a].remote_jwks.retry_policy: is not supported"},

		// What package jwt would refuse of a policy.
		{filterOf(t, `"issuer": "i", `+common+`, "localJwks": {"inlineString": "x"}`), "jwt_authn: RequestAuthentication /jwt_authn: spec.jwtRules[0].jwks"},
		{filterOf(t, plain+`, "forwardPayloadHeader": "content-length"`), "says how a request is carried"},
		{filterOf(t, plain+`, "fromHeaders": [{"name": ""}]`), "spec.jwtRules[0].fromHeaders[0].name: is required"},
	} {
		s, err := Compile(tt.filter)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: got %v, want …%s…", tt.filter, err, tt.want)
		}
		r := s.Check(time.Unix(1e9, 0), &l7.Request{Method: "GET", Path: "/"}, nil, nil)
		if want := "jwt_authn_access_denied{closed:jwt_authn_filter_rejected}"; r.Allowed || r.Details() != want {
			t.Errorf("%v: allowed %t, %s, want refused, %s", tt.filter, r.Allowed, r.Details(), want)
		}
	}
}

func TestUnsupportedIsTold(t *testing.T) {
	if _, err := Compile(&jwtv3.JwtAuthentication{}); !errors.Is(err, authz.ErrUnsupported) {
		t.Errorf("got %v, want %v", err, authz.ErrUnsupported)
	}
}

// FuzzCompile has filters of any bytes, which come from whoever is taken for a
// control plane.
func FuzzCompile(f *testing.F) {
	for _, m := range []*jwtv3.JwtAuthentication{filterOf(f, `"issuer": "i", `+common+`, `+keySet), twoProviders(f, `"issuer": "i", `+common+`, `+keySet, `"issuer": "j", `+common+`, `+keySet)} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m jwtv3.JwtAuthentication
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		s, err := Compile(&m)
		r := s.Check(time.Unix(1e9, 0), &l7.Request{Method: "GET", Path: "/"}, nil, nil)
		if r.Allowed != (err == nil) {
			t.Fatalf("%v: without a token it says %v", err, r.Reason)
		}
	})
}
