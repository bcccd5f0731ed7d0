package config

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
)

// ask returns a CUSTOM policy of a Service "default/name" that asks about clients
// of the namespace "bad".
func ask(name, provider string) *authz.Policy {
	p := policy("default/ask-"+name, ref("Service", name))
	p.Action, p.Provider = authz.Custom, provider
	return p
}

func grpc(name string, port uint32) *authz.Provider {
	return &authz.Provider{Name: name, Kind: authz.GRPC, Service: "authz.foo.svc", Port: port}
}

// meshOf returns a Mesh with providers.
func meshOf(providers ...*authz.Provider) *Mesh {
	m := &Mesh{Providers: map[string]*authz.Provider{}}
	for _, p := range providers {
		m.Providers[p.Name] = p
	}
	return m
}

func TestASnapshotAlwaysHasAMesh(t *testing.T) {
	if m := new(Snapshot).Mesh(); m.TrustDomain != "cluster.local" || m.RootNamespace != "istio-system" || m.Normalization != routing.NormalizeBase {
		t.Errorf("of no Store: %+v", m)
	}
	s := NewStore(Options{TrustDomain: "td", RootNamespace: "root"})
	if m := s.Snapshot().Mesh(); m.TrustDomain != "td" || m.RootNamespace != "root" || m.Normalization != routing.NormalizeBase {
		t.Errorf("of a new Store: %+v", m)
	}
	apply(t, s, &Mesh{TrustDomain: "other", RootNamespace: "elsewhere", Aliases: []string{"old"}, Normalization: routing.MergeSlashes})
	if m := s.Snapshot().Mesh(); m.TrustDomain != "td" || m.RootNamespace != "root" || !slices.Equal(m.Aliases, []string{"old"}) || m.Normalization != routing.MergeSlashes {
		t.Errorf("applied: %+v: a trust domain and a root namespace are for the options to say", m)
	}
	remove(t, s, new(Mesh))
	if m := s.Snapshot().Mesh(); m.Aliases != nil || m.Normalization != routing.NormalizeBase {
		t.Errorf("removed: %+v", m)
	}
}

func TestOptionsGoBeforeMeshConfig(t *testing.T) {
	none := routing.NormalizeNone
	s := NewStore(Options{Aliases: []string{}, Normalization: &none})
	apply(t, s, &Mesh{Aliases: []string{"old"}, Normalization: routing.MergeSlashes})
	if m := s.Snapshot().Mesh(); len(m.Aliases) != 0 || m.Normalization != none {
		t.Errorf("got %+v", m)
	}
}

func TestCustomPoliciesFollowTheirProviders(t *testing.T) {
	const (
		asked    = "rbac_access_denied_matched_policy[istio-ext-authz-x-ns[default]-policy[ask-items]-rule[0]]"
		unusable = "rbac_access_denied_matched_policy[istio-ext-authz-x-ns[default]-policy[ask-items]-rule[0]-deny-due-to-bad-CUSTOM-action]"
	)
	http := grpc("x", 1)
	http.Kind = authz.HTTP
	edited := grpc("x", 2)
	s := waypointStore()
	apply(t, s, gateway(), served("default/items", "10.1.0.1"), served("default/other", "10.1.0.2"), ask("items", "x"), ask("other", "y"), policy("default/p", ref("Service", "items")))
	for _, tt := range []struct {
		name     string
		mesh     *Mesh
		want     string // of what is not HTTP and comes from "bad"
		replaced bool
	}{
		{"none", meshOf(), unusable, false},
		{"another", meshOf(grpc("z", 1)), unusable, false},
		{"it comes", meshOf(grpc("x", 1)), asked, true},
		{"it is edited", meshOf(edited), asked, false},
		{"another comes", meshOf(edited, grpc("z", 1)), asked, false},
		{"it is asked about requests only", meshOf(http), "rbac_access_denied_matched_policy[ns[default]-policy[p]-rule[0]]", true},
		{"it goes", meshOf(), unusable, true},
	} {
		before, other, was := lookup(t, s, "", "10.1.0.1:80"), lookup(t, s, "", "10.1.0.2:80"), s.Snapshot()
		apply(t, s, tt.mesh)
		now := lookup(t, s, "", "10.1.0.1:80")
		if got := verdict(now, "bad"); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
		if got := now != before; got != tt.replaced {
			t.Errorf("%s: replaced %v, want %v", tt.name, got, tt.replaced)
		}
		if lookup(t, s, "", "10.1.0.2:80") != other {
			t.Errorf("%s: a destination with another provider is replaced", tt.name)
		}
		if published := s.Snapshot() != was; published != (tt.name != "none") {
			t.Errorf("%s: published %v", tt.name, published)
		}
	}
	if n := len(s.builder.policies.sets.compiled); n != 2 {
		t.Errorf("%d sets are remembered, want 2", n)
	}
}

func TestAProviderThatDoesNotChangeStaysTheSame(t *testing.T) {
	s := waypointStore()
	apply(t, s, meshOf(grpc("x", 1), grpc("y", 1)))
	x, y := s.Snapshot().Mesh().Providers["x"], s.Snapshot().Mesh().Providers["y"]
	apply(t, s, meshOf(grpc("x", 1), grpc("y", 2)))
	if now := s.Snapshot().Mesh().Providers; now["x"] != x || now["y"] == y || now["y"].Port != 2 {
		t.Errorf("x is the same %v, want true; y %v, want false", now["x"] == x, now["y"] == y)
	}
	was := s.Snapshot()
	apply(t, s, meshOf(grpc("x", 1), grpc("y", 2)))
	if s.Snapshot() != was {
		t.Error("the same again is published")
	}
}

func TestABadMeshIsRejected(t *testing.T) {
	s := waypointStore()
	apply(t, s, meshOf(grpc("x", 1)))
	was := s.Snapshot()
	misplaced := meshOf()
	misplaced.Providers["a"] = grpc("b", 1)
	for _, m := range []*Mesh{meshOf(grpc("x", 0)), misplaced} {
		if err := s.Apply(updates(m)); err == nil || !strings.Contains(err.Error(), "extensionProviders[name=") {
			t.Errorf("error %v", err)
		}
	}
	// A source refuses providers one by one: what it leaves counts.
	bad := Update{Key: mesh.Key{Kind: "ExtensionProvider", Name: "y"}, Err: errors.New("mesh.yaml:3: bad")}
	if err := s.Apply([]Update{bad}); err == nil {
		t.Error("no error")
	}
	if s.Snapshot() != was {
		t.Error("what was rejected is in force")
	}
	if got := rejections(s); got != "/y, /" {
		t.Errorf("rejected %q", got)
	}
	if err := s.Apply([]Update{{Key: bad.Key}, {Value: meshOf(grpc("x", 1))}}); err != nil || rejections(s) != "" {
		t.Errorf("mended: %v, rejected %q", err, rejections(s))
	}
}

func TestAliasesAreLive(t *testing.T) {
	for _, o := range []Options{{Gateway: ourGateway}, {}} {
		s := NewStore(o)
		p := policy("default/p", ref("Service", "items"))
		if o.Gateway == (mesh.Key{}) {
			p.TargetRefs = nil
		}
		p.Rules[0].From[0] = authz.Source{Principals: []string{"old.example.com/ns/bad/sa/sa"}}
		apply(t, s, served("default/items", "10.1.0.1"), pod("default/web", "10.0.0.1"), p)
		find := func() *Destination {
			if o.Gateway == (mesh.Key{}) {
				return lookup(t, s, "", "10.0.0.1:80")
			}
			return lookup(t, s, "", "10.1.0.1:80")
		}
		if got := verdict(find(), "bad"); got != "allowed" {
			t.Errorf("before: %s", got)
		}
		before := find()
		told := map[*Destination]*Destination{}
		s.OnPublish(func(c Changes) { maps.Copy(told, c.Destinations) })
		apply(t, s, &Mesh{Aliases: []string{"old.example.com"}})
		if got := verdict(find(), "bad"); got == "allowed" || told[before] != find() {
			t.Errorf("with the alias: %s, told of %s", got, name(told[before]))
		}
		remove(t, s, new(Mesh))
		if got := verdict(find(), "bad"); got != "allowed" {
			t.Errorf("without it again: %s", got)
		}
	}
}

func TestAPolicyUnderDryRunClosesNothing(t *testing.T) {
	s := waypointStore()
	apply(t, s, served("default/items", "10.1.0.1"))
	p := bad(policy("default/p", ref("Service", "items")))
	if err := s.Apply(updates(p)); err == nil || verdict(lookup(t, s, "", "10.1.0.1:80"), "good") == "allowed" {
		t.Fatalf("enforced and bad: %v, open", err)
	}
	rehearsed := *p
	rehearsed.DryRun = true
	if err := s.Apply(updates(&rehearsed)); err == nil {
		t.Error("no error")
	}
	if got := verdict(lookup(t, s, "", "10.1.0.1:80"), "good"); got != "allowed" || rejections(s) != "default/p" {
		t.Errorf("under dry run: %s, rejected %q", got, rejections(s))
	}
}
