package jwt_test

import (
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// benchTime is when the tokens of benchmarks are valid.
var benchTime = time.Unix(1e9, 0)

// benchSet takes the tokens that a key signs.
func benchSet(tb testing.TB, key string) *jwt.Set {
	tb.Helper()
	set, err := jwt.Compile(jwt.Options{}, &jwt.RequestAuthentication{Name: "p", Namespace: "default", Rules: []jwt.Rule{{
		Issuer: "https://issuer.example.com", JWKS: keySet(tb, []string{key}), Audiences: []string{"items"},
	}}})
	if err != nil {
		tb.Fatal(err)
	}
	return set
}

func benchRequest(tb testing.TB, key string, claims map[string]any) *l7.Request {
	tb.Helper()
	all := map[string]any{"iss": "https://issuer.example.com", "sub": "ann", "aud": []any{"items", "users"}, "exp": benchTime.Unix() + 3600,
		"scope": "read write", "groups": []any{"dev", "ops"}}
	for name, v := range claims {
		all[name] = v
	}
	return &l7.Request{Method: "GET", Scheme: "http", Authority: "items", Path: "/items/17?sort=name", Fields: l7.Fields{
		{Name: "accept", Value: "*/*"}, {Name: "user-agent", Value: "curl"}, {Name: "authorization", Value: "Bearer " + sign(tb, key, nil, all)}}}
}

// BenchmarkCheck is what a token costs: verified anew, remembered, refused and
// remembered as that, and none. It excludes Apply.
func BenchmarkCheck(b *testing.B) {
	for _, key := range []string{"rsa", "ec", "ed"} {
		set, req := benchSet(b, key), benchRequest(b, key, nil)
		for _, name := range []string{"verified", "remembered"} {
			b.Run(defaultAlgorithms[key]+"/"+name, func(b *testing.B) {
				var v *jwt.Verifier // it forgets
				if name == "remembered" {
					v = jwt.NewVerifier(jwt.Limits{})
				}
				if r := set.Check(benchTime, req, nil, v); !r.Allowed || r.Token == nil {
					b.Fatalf("got %v, want a valid token", r.Reason)
				}
				b.ReportAllocs()
				for b.Loop() {
					set.Check(benchTime, req, nil, v)
				}
			})
		}
	}
	set := benchSet(b, "ec")
	none := benchRequest(b, "ec", nil)
	none.Fields = none.Fields[:2]
	for _, c := range []struct {
		name string
		req  *l7.Request
	}{
		{"refused/remembered", benchRequest(b, "rsa", nil)},
		{"expired/remembered", benchRequest(b, "ec", map[string]any{"exp": 1})},
		{"none", none},
	} {
		b.Run(c.name, func(b *testing.B) {
			v := jwt.NewVerifier(jwt.Limits{})
			b.ReportAllocs()
			for b.Loop() {
				set.Check(benchTime, c.req, nil, v)
			}
		})
	}
}

// What is remembered costs no allocation, whether it was valid or not.
func TestCheckOfWhatIsRememberedDoesNotAllocate(t *testing.T) {
	for _, key := range []string{"rsa", "ec", "ed"} {
		set, v := benchSet(t, key), jwt.NewVerifier(jwt.Limits{})
		other := "rsa"
		if key == other {
			other = "ec"
		}
		good, forged, expired := benchRequest(t, key, nil), benchRequest(t, other, nil), benchRequest(t, key, map[string]any{"exp": 1})
		none := &l7.Request{Method: "GET", Path: "/items?sort=name", Fields: good.Fields[:2]}
		for want, req := range map[bool][]*l7.Request{true: {good, none}, false: {forged, expired}} {
			for _, r := range req {
				if got := set.Check(benchTime, r, nil, v); got.Allowed != want {
					t.Fatalf("%s: got %v", key, got.Reason)
				}
			}
		}
		if n := testing.AllocsPerRun(100, func() {
			for _, r := range [...]*l7.Request{good, none, forged, expired} {
				set.Check(benchTime, r, nil, v)
			}
		}); n != 0 {
			t.Errorf("%s: got %v allocations, want 0", key, n)
		}
	}
}
