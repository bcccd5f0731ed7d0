package waypointcmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/extauthz"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/loop"
)

// An authorizerRig is authorizers that follow a store.
type authorizerRig struct {
	*authorizers
	t     *testing.T
	store *config.Store
}

func newAuthorizerRig(t *testing.T, before ...*authz.Provider) *authorizerRig {
	t.Helper()
	loops, err := loop.NewGroup(1, loop.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ids, err := identity.Open("self:"+t.TempDir(), identity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := &authorizerRig{t: t, store: config.NewStore(config.Options{})}
	r.publish(before...)
	r.authorizers = newAuthorizers(authorizerOptions{
		Self: account("waypoint"), Identity: ids, Store: r.store, Loop: loops.Loops()[0], ClusterDomain: "cluster.local",
		Dial: func(ctx context.Context, _ netip.Addr, dst netip.AddrPort) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", dst.String())
		},
	})
	t.Cleanup(func() {
		if err := r.close(context.Background()); err != nil {
			t.Error(err)
		}
		loops.Close()
	})
	return r
}

func account(name string) identity.ID {
	return identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: name}
}

// publish has MeshConfig name these providers and no others.
func (r *authorizerRig) publish(providers ...*authz.Provider) {
	r.t.Helper()
	m := &config.Mesh{Providers: map[string]*authz.Provider{}}
	for _, p := range providers {
		m.Providers[p.Name] = p
	}
	if err := r.store.Apply([]config.Update{{Value: m}}); err != nil {
		r.t.Fatal(err)
	}
}

// ask asks a provider, which must be there.
func (r *authorizerRig) ask(name string) extauthz.Answer {
	r.t.Helper()
	c := r.client(name)
	if c == nil {
		r.t.Fatalf("there is no %s", name)
	}
	return askClient(c)
}

func askClient(c *extauthz.Client) extauthz.Answer {
	answers := make(chan extauthz.Answer, 1)
	c.Ask(&extauthz.Request{Head: &l7.Request{Method: "GET", Path: "/", Authority: "items"}}, func(a extauthz.Answer) { answers <- a })
	return <-answers
}

// regoProvider is one that decides by a policy in this process.
func regoProvider(name, rego string) *authz.Provider {
	return &authz.Provider{Name: name, Kind: authz.OPA, OPA: &authz.OPAPolicy{
		Modules: map[string]string{"p.rego": "package envoy.authz\n" + rego}, ConfigMap: "default/rego",
	}}
}

// httpProvider is one that is asked where h answers.
func httpProvider(t *testing.T, name string, h http.HandlerFunc) *authz.Provider {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	at := netip.MustParseAddrPort(s.Listener.Addr().String())
	return &authz.Provider{Name: name, Kind: authz.HTTP, Service: at.Addr().String(), Port: uint32(at.Port())}
}

func TestClientsFollowWhatIsPublished(t *testing.T) {
	r := newAuthorizerRig(t)
	if r.client("a") != nil {
		t.Error("there is a client of nobody")
	}
	yes := httpProvider(t, "a", func(http.ResponseWriter, *http.Request) {})
	r.publish(yes, regoProvider("b", "allow := true"))
	if a, b := r.ask("a"), r.ask("b"); !a.Allowed || !b.Allowed {
		t.Errorf("the answers are %+v and %+v", a, b)
	}
	a, b := r.client("a"), r.client("b")
	same := *yes
	r.publish(&same, regoProvider("b", "allow := false"))
	if r.client("a") != a || r.client("b") == b {
		t.Error("what stayed was replaced, or what changed was not")
	}
	if got := r.ask("b"); got.Allowed || got.Err != nil {
		t.Errorf("the answer is the old one: %+v", got)
	}
	r.publish(&same)
	if r.client("a") != a || r.client("b") != nil {
		t.Error("who is gone can be asked still")
	}
	if got := askClient(b); !got.Allowed { // who got hold of it before
		t.Errorf("of the client that was replaced the answer is %+v", got)
	}
	r.publish()
	if r.client("a") != nil {
		t.Error("there is a client of nobody")
	}
}

func TestPoliciesAreReadInTheBeginning(t *testing.T) {
	r := newAuthorizerRig(t, regoProvider("a", "allow := true"), regoProvider("b", "allow := {"))
	for _, s := range r.status() {
		if s.Policy.Loaded == nil && s.Policy.Error == "" {
			t.Errorf("that of %s has not been read", s.Provider)
		}
	}
}

// What was asked before is answered, and nobody waits for that but who asked.
func TestReplacedProvidersAnswer(t *testing.T) {
	r := newAuthorizerRig(t)
	entered, leave := make(chan bool), make(chan bool)
	r.publish(httpProvider(t, "a", func(http.ResponseWriter, *http.Request) { entered <- true; <-leave }))
	answers := make(chan extauthz.Answer, 1)
	r.client("a").Ask(&extauthz.Request{Head: &l7.Request{Method: "GET", Path: "/"}}, func(a extauthz.Answer) { answers <- a })
	<-entered
	r.publish(httpProvider(t, "a", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }))
	if got := r.ask("a"); got.Allowed || got.Err != nil {
		t.Errorf("the answer of the new one is %+v", got)
	}
	leave <- true
	if got := <-answers; !got.Allowed {
		t.Errorf("the answer of the old one is %+v", got)
	}
}

func TestEndingGivesUp(t *testing.T) {
	r := newAuthorizerRig(t)
	entered := make(chan bool)
	r.publish(httpProvider(t, "a", func(_ http.ResponseWriter, q *http.Request) { entered <- true; <-q.Context().Done() }))
	c, answers := r.client("a"), make(chan extauthz.Answer, 1)
	c.Ask(&extauthz.Request{Head: &l7.Request{Method: "GET", Path: "/"}}, func(a extauthz.Answer) { answers <- a })
	<-entered
	if err := r.close(t.Context()); err != nil {
		t.Error(err)
	}
	if got := <-answers; got.Allowed || got.Err == nil {
		t.Errorf("the answer is %+v", got)
	}
	r.publish(regoProvider("a", "allow := true"))
	if r.client("a") != nil {
		t.Error("after the end there is somebody to ask")
	}
	if got := askClient(c); !errors.Is(got.Err, extauthz.ErrClosed) {
		t.Errorf("asked after the end, the answer is %+v", got)
	}
}

// Providers are replaced while loops ask: not one question goes unanswered.
func TestProvidersChangeUnderLoad(t *testing.T) {
	r := newAuthorizerRig(t)
	web := httpProvider(t, "web", func(http.ResponseWriter, *http.Request) {})
	r.publish(web, regoProvider("rego", "allow := true"))
	var over atomic.Bool
	var asked atomic.Int64
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for !over.Load() {
				if a := askClient(r.client([]string{"web", "rego"}[i%2])); !a.Allowed {
					t.Errorf("the answer is %+v", a)
					return
				}
				asked.Add(1)
			}
		})
	}
	for i := range 40 {
		next := *web
		next.PathPrefix = "/" + strings.Repeat("x", i%3)
		r.publish(&next, regoProvider("rego", "allow := true\n"+strings.Repeat("# again\n", i)))
		for before := asked.Load(); asked.Load() < before+20 && !t.Failed(); {
			r.status()
			runtime.Gosched()
		}
	}
	over.Store(true)
	all.Wait()
}

func TestPolicyThatDoesNotCompileKeepsTheLastOne(t *testing.T) {
	r := newAuthorizerRig(t)
	r.publish(regoProvider("a", "allow := true"))
	if !r.ask("a").Allowed {
		t.Error("it is not open")
	}
	r.publish(regoProvider("a", "allow := {"), regoProvider("b", "allow := ["))
	if got := r.ask("a"); !got.Allowed {
		t.Errorf("what is broken is in force: %+v", got)
	}
	if got := r.ask("b"); got.Allowed || got.Err == nil || got.Status != 403 {
		t.Errorf("what never was good answers %+v", got)
	}
	for i, s := range r.status() {
		if want := "extensionProviders[name=" + s.Provider + "].opa.configMap: default/rego: p.rego:2:10: "; !strings.Contains(s.Policy.Error, want) || (s.Policy.Loaded != nil) != (i == 0) {
			t.Errorf("the status is %+v with %+v", s, s.Policy)
		}
	}
}

func TestStatusTellsOfTheLastError(t *testing.T) {
	r := newAuthorizerRig(t)
	r.publish(&authz.Provider{Name: "gone", Kind: authz.HTTP, Service: "127.0.0.1", Port: 1}, regoProvider("rego", "allow := true"))
	r.ask("gone")
	r.ask("rego")
	got := r.status()
	if len(got) != 2 || got[0].Provider != "gone" || got[0].Asked != 1 || got[0].Failed != 1 || got[0].LastAt == nil || !strings.Contains(got[0].LastError, "refused") {
		t.Errorf("the status is %+v", got)
	}
	if got[1].Asked != 1 || got[1].Failed != 0 || got[1].Policy == nil || got[1].Policy.Loaded == nil {
		t.Errorf("the status is %+v", got[1])
	}
	if _, err := json.Marshal(got); err != nil {
		t.Error(err)
	}
}

// Two providers write one log, which is closed with the last of them.
func TestDecisionLogsAreShared(t *testing.T) {
	r := newAuthorizerRig(t)
	path := filepath.Join(t.TempDir(), "decisions.json")
	logged := func(name string) *authz.Provider {
		p := regoProvider(name, "allow := true")
		p.OPA.DecisionLog = path
		return p
	}
	r.publish(logged("a"), logged("b"))
	if r.logs[path].users != 2 {
		t.Fatalf("the log has %d users", r.logs[path].users)
	}
	r.ask("a")
	r.ask("b")
	if err := r.logs[path].Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	r.reopen(t.Context())
	r.ask("a")
	if err := r.close(t.Context()); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]int{path + ".1": 2, path: 1} {
		text, err := os.ReadFile(name)
		if got := bytes.Count(text, []byte("\n")); err != nil || got != want || !bytes.Contains(text, []byte(`"decision_id"`)) {
			t.Errorf("%s has %d lines, %v, want %d", name, got, err, want)
		}
	}
	if len(r.logs) != 0 {
		t.Errorf("%d logs are open", len(r.logs))
	}
}
