package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// tokens returns a RequestAuthentication "namespace/name" that takes the tokens
// of an issuer.
func tokens(name, issuer string, refs ...authz.TargetRef) *jwt.RequestAuthentication {
	ns, n, _ := strings.Cut(name, "/")
	return &jwt.RequestAuthentication{Namespace: ns, Name: n, TargetRefs: refs, Rules: []jwt.Rule{{Issuer: issuer}}}
}

// issuers says whose tokens a Destination takes; or that it is closed.
func issuers(d *Destination) string {
	if d == nil || d.Tokens == nil {
		return "none"
	}
	if r := d.Tokens.Check(time.Time{}, &l7.Request{Method: "GET", Path: "/"}, nil, nil); !r.Allowed {
		return r.Details()
	}
	var out []string
	for source := range d.Tokens.Sources() {
		out = append(out, source.Issuer)
	}
	return strings.Join(out, " ")
}

func TestRequestAuthenticationsAttachAsPoliciesDo(t *testing.T) {
	account := gateway()
	account.ServiceAccount = "productpage"
	selected := tokens("default/p", "i")
	selected.Selector = map[string]string{gatewayNameLabel: "waypoint"}
	entry := served("default/entry", "10.1.0.2")
	entry.Hostname, entry.Canonical = "api.example.com", false
	for _, tt := range []struct {
		name   string
		tokens *jwt.RequestAuthentication
		gw     *Gateway
		on     string // of: items entry other pod
	}{
		{"its Service", tokens("default/p", "i", ref("Service", "items")), gateway(), "items"},
		{"a Service of another namespace", tokens("other/p", "i", ref("Service", "items")), gateway(), ""},
		{"a ServiceEntry", tokens("default/p", "i", ref("ServiceEntry", "entry")), gateway(), "entry"},
		{"the Gateway", tokens("default/p", "i", ref("Gateway", "waypoint")), gateway(), "items entry other pod"},
		{"another Gateway", tokens("default/p", "i", ref("Gateway", "another")), gateway(), ""},
		{"the class", tokens("istio-system/p", "i", ref("GatewayClass", "istio-waypoint")), gateway(), "items entry other pod"},
		{"a selector", selected, gateway(), ""},
		{"a selector, of a service account's waypoint", selected, account, "items entry other pod"},
		{"no target", tokens("default/p", "i"), gateway(), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := waypointStore()
			w := pod("default/web", "10.0.0.1")
			w.Waypoint = &mesh.GatewayAddress{Hostname: host("default/waypoint")}
			apply(t, s, served("default/items", "10.1.0.1"), entry, served("other/other", "10.1.0.3"), w, tt.gw, tt.tokens)
			check := func(when, on string) {
				t.Helper()
				for which, authority := range map[string]string{"items": "10.1.0.1:80", "entry": "10.1.0.2:80", "other": "10.1.0.3:80", "pod": "10.0.0.1:80"} {
					want := "none"
					if strings.Contains(on, which) {
						want = "i"
					}
					if got := issuers(lookup(t, s, "default", authority)); got != want {
						t.Errorf("%s, %s: takes the tokens of %s, want %s", when, which, got, want)
					}
				}
				want := 0
				if on != "" {
					want = 1
				}
				if got := len(s.Snapshot().TokenSources()); got != want {
					t.Errorf("%s: %d sources of keys, want %d", when, got, want)
				}
			}
			check("applied", tt.on)
			if got := s.Snapshot().RequestAuthentications(); len(got) != 1 || got[0] != tt.tokens {
				t.Errorf("listed: %v", got)
			}
			remove(t, s, tt.tokens)
			check("removed", "")
		})
	}
}

func TestTheNodeTunnelIgnoresTokens(t *testing.T) {
	s := NewStore(Options{})
	p := tokens("default/p", "i")
	apply(t, s, pod("default/web", "10.0.0.1"), p)
	if err := s.Apply([]Update{{Key: p.Key(), Err: errors.New("bad")}}); err == nil {
		t.Error("no error")
	}
	if d := lookup(t, s, "", "10.0.0.1:80"); d.Tokens != nil || verdict(d, "good") != "allowed" {
		t.Error("a pod asks for tokens")
	}
	if got := rejections(s); got != "default/p" || len(s.Snapshot().RequestAuthentications()) != 0 {
		t.Errorf("rejected %q, want default/p, not closed", got)
	}
}

func TestARequestAuthenticationThatNeverWasGoodFailsItsTargetsClosed(t *testing.T) {
	const closed = "jwt_authn_access_denied{closed:RequestAuthentication_default/p_was_rejected}"
	p := tokens("default/p", "i", ref("Service", "items"))
	wrong := tokens("default/p", "", ref("Service", "items")) // an issuer is required
	for _, tt := range []struct {
		name                string
		update              Update
		items, other, third string
	}{
		{"by the Store", Update{Value: wrong}, closed, "none", "none"},
		{"by its source", Update{Key: p.Key(), Value: p, Err: errors.New("bad")}, closed, "none", "none"},
		{"and nothing can be read", Update{Key: p.Key(), Err: errors.New("bad")}, closed, closed, closed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := waypointStore()
			apply(t, s, served("default/items", "10.1.0.1"), served("default/other", "10.1.0.2"), served("third/svc", "10.1.0.3"))
			check := func(want ...string) {
				t.Helper()
				for i, w := range want {
					if got := issuers(lookup(t, s, "", fmt.Sprintf("10.1.0.%d:80", i+1))); got != w {
						t.Errorf("10.1.0.%d: %s, want %s", i+1, got, w)
					}
				}
			}
			reject := func(want string) {
				t.Helper()
				if err := s.Apply([]Update{tt.update}); err == nil {
					t.Fatal("no error")
				}
				if got := rejections(s); got != want {
					t.Errorf("rejected %q, want %q", got, want)
				}
			}
			reject("default/p closed")
			check(tt.items, tt.other, tt.third)
			apply(t, s, p)
			check("i", "none", "none")
			reject("default/p") // its good version stays
			check("i", "none", "none")
			remove(t, s, p)
			check("none", "none", "none")
			if got := rejections(s); got != "" {
				t.Errorf("rejected %q, want none", got)
			}
		})
	}
}

func TestTokenSourcesAreThoseInUse(t *testing.T) {
	s := waypointStore()
	wants := func(when string, want ...string) {
		t.Helper()
		var got []string
		for source, timeout := range s.Snapshot().TokenSources() {
			got = append(got, fmt.Sprint(source.Issuer, source.URI, " ", timeout))
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	a, b := tokens("default/a", "i", ref("Service", "items")), tokens("default/b", "j", ref("Service", "items"), ref("Service", "other"))
	b.Rules = append(b.Rules, jwt.Rule{Issuer: "i", Timeout: time.Minute}, jwt.Rule{Issuer: "k", JWKS: `{"keys": []}`}, jwt.Rule{Issuer: "l", JWKSURI: "https://l/keys"})
	apply(t, s, a, b)
	wants("attached to nothing")
	apply(t, s, served("default/items", "10.1.0.1"))
	wants("one service", "https://l/keys 5s", "i 1m0s", "j 5s")
	apply(t, s, served("default/other", "10.1.0.2"))
	before := s.Snapshot().TokenSources()
	apply(t, s, svc("default/third", "10.1.0.3"))
	if after := s.Snapshot().TokenSources(); !maps.Equal(before, after) {
		t.Errorf("after an unrelated change: %v, were %v", after, before)
	}
	remove(t, s, b)
	wants("one policy less", "i 5s")
	apply(t, s, svc("default/items", "10.1.0.1"))
	wants("no longer ours")
	if n := len(s.builder.tokenUses); n != 0 {
		t.Errorf("%d sets are counted, want 0", n)
	}
}

func TestTokensReplaceOnlyWhatTheyConcern(t *testing.T) {
	s := waypointStore()
	p := tokens("default/p", "i", ref("Service", "items"))
	apply(t, s, gateway(), served("default/items", "10.1.0.1"), served("default/other", "10.1.0.2"), p)
	items, other := lookup(t, s, "", "10.1.0.1:80"), lookup(t, s, "", "10.1.0.2:80")
	told := map[*Destination]*Destination{}
	s.OnPublish(func(c Changes) { maps.Copy(told, c.Destinations) })

	apply(t, s, tokens("default/p", "i", ref("Service", "items"))) // the same again
	if len(told) != 0 {
		t.Errorf("the same again: %d destinations replaced", len(told))
	}
	apply(t, s, tokens("default/p", "j", ref("Service", "items")))
	now := lookup(t, s, "", "10.1.0.1:80")
	if told[items] != now || issuers(now) != "j" || now.Policies != items.Policies {
		t.Errorf("edited: told of %v, takes the tokens of %s", name(told[items]), issuers(now))
	}
	if lookup(t, s, "", "10.1.0.2:80") != other {
		t.Error("edited: a destination that it does not concern is another one")
	}
	for i := range 100 {
		apply(t, s, tokens("default/p", fmt.Sprint("i", i), ref("Gateway", "waypoint")))
		if a, b := lookup(t, s, "", "10.1.0.1:80"), lookup(t, s, "", "10.1.0.2:80"); a.Tokens == nil || a.Tokens != b.Tokens {
			t.Fatal("two services under the same RequestAuthentication do not share what was compiled")
		}
	}
	if n := len(s.builder.tokens.sets.compiled); n != 1 {
		t.Errorf("%d sets are remembered, want 1", n)
	}
}
