package waypoint_test

import (
	"context"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/decisions"
	"github.com/waystone-mesh/waystone/internal/extauthz"
	"github.com/waystone-mesh/waystone/internal/meshtest"
	"github.com/waystone-mesh/waystone/waypoint"
)

const (
	openAll = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all, namespace: default}
spec:
  targetRefs: [{kind: Service, group: "", name: items}]
  rules: [{}]
`
	closeAll = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: none, namespace: default}
spec:
  targetRefs: [{kind: Service, group: "", name: items}]
  action: DENY
  rules: [{}]
`
)

// A talk is a connection that is not HTTP, to an endpoint that says everything
// back.
type talk struct {
	net.Conn
	t *testing.T
}

// talker is a mesh in which a workload talks to items on a port of a protocol.
func talker(t *testing.T, m *meshtest.Mesh, name, protocol string) (dial func() *talk) {
	t.Helper()
	web := m.Workload(name)
	ln := m.Workload("items").Listen(meshtest.AppPort)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for nc, err := ln.Accept(); err == nil; nc, err = ln.Accept() {
			go func() { _, _ = io.Copy(nc, nc); nc.Close() }()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	m.Service("items", 80).Protocol(protocol).Waypoint()
	return func() *talk {
		nc, err := web.Dial(context.Background(), "items:80")
		if err != nil {
			return &talk{nil, t} // a declared port says no before there is a connection
		}
		return &talk{nc, t}
	}
}

// want says something and checks whether it is said back.
func (c *talk) want(ok bool) *talk {
	c.t.Helper()
	got := make([]byte, 6)
	err := io.ErrClosedPipe
	if c.Conn != nil {
		_, _ = io.WriteString(c, "\x00hello")
		_, err = io.ReadFull(c, got)
	}
	if (err == nil && string(got) == "\x00hello") != ok {
		c.t.Errorf("got %q, %v; want an answer: %v", got, err, ok)
	}
	if !ok && c.Conn != nil {
		c.Close()
	}
	return c
}

// TestOpaqueTunnelsAreAsked asks about connections that are not HTTP, once, when
// they open.
func TestOpaqueTunnelsAreAsked(t *testing.T) {
	for _, protocol := range []string{"tcp", ""} {
		t.Run("port "+protocol, func(t *testing.T) {
			recent := decisions.New(100)
			a, g := withAuthorizers(t, meshtest.Options{Waypoint: func(o *waypoint.Options) { o.Recent = recent }}), newGate()
			m := a.m
			dial := talker(t, m, "web", protocol)

			// Over HTTP nobody can be asked about what is not.
			a.addFor(authz.Provider{Name: "web", Kind: authz.HTTP, Service: "a", Port: 1}, inProcess(func(context.Context, *extauthz.Request) (extauthz.Answer, error) {
				t.Error("it was asked over HTTP")
				return extauthz.Answer{}, nil
			}), "[{}]")
			dial().want(true).Close()
			m.WaitMetric(`istio_tcp_connections_closed_total{reporter="waypoint"}`, 1) // or it is judged again below

			// What asks for a method asks for nothing here, and more is asked about.
			a.addFor(authz.Provider{Name: "gate"}, inProcess(g.ask), "[{to: [{operation: {methods: [PUT]}}]}]")
			g.yes()
			open := dial().want(true)
			if q := <-g.asked; q.Head != nil || q.Content != nil || q.Peer.ServiceAccount != "web" || q.Dest.Port() != 80 {
				t.Errorf("it was asked about %+v", q)
			}
			m.Apply(openAll)
			open.want(true)
			if len(g.asked) > 0 {
				t.Error("it was asked again about a tunnel that is open")
			}

			g.answer <- extauthz.Answer{Status: 401}
			dial().want(false)
			<-g.asked
			m.WaitMetric(`istio_tcp_connections_closed_total{reporter="waypoint",response_flags="UAEX"}`, 1)
			m.WantLog("response_flags", "UAEX", "response_code_details", "ext_authz_denied", "method", nil)

			// A policy that comes meanwhile does not wait for the answer, and closes
			// the other one too.
			done := make(chan struct{})
			go func() { defer close(done); dial().want(false) }()
			<-g.asked
			m.Apply(closeAll)
			<-done
			open.want(false)
			m.Until("no question is open", func() bool { return g.open.Load() == 0 })
			m.WantLog("response_flags", "UC", "connection_termination_details", "rbac_access_denied_matched_policy[ns[default]-policy[none]-rule[0]]")
			m.Delete("AuthorizationPolicy/default/none")

			// An authorizer that is not there refuses.
			a.mu.Lock()
			c := a.clients["gate"]
			a.clients["gate"] = nil
			a.mu.Unlock()
			dial().want(false)
			a.mu.Lock()
			a.clients["gate"] = c
			a.mu.Unlock()
			m.WaitMetric(`istio_tcp_connections_closed_total{reporter="waypoint"}`, 5)
			m.WantLog("connection_termination_details", "rbac_access_denied_matched_policy[istio-ext-authz-gate-ns[default]-policy[gate]-rule[0]-deny-due-to-bad-CUSTOM-action]")

			// Nor is one that is not configured asked, and then nobody is.
			m.Apply(strings.ReplaceAll(strings.ReplaceAll(closeAll, "DENY", "CUSTOM\n  provider: {name: other}"), "name: none", "name: lost"))
			dial().want(false)
			if len(g.asked) > 0 {
				t.Error("it was asked about a tunnel that is refused whatever it says")
			}
			m.WaitMetric(`istio_tcp_connections_closed_total{reporter="waypoint"}`, 6)

			v, err := recent.Query(url.Values{"allowed": {"false"}})
			if err != nil {
				t.Fatal(err)
			}
			var why []string
			for _, d := range v.(decisions.Answer).Decisions {
				if d.Method != "" || d.Source != "spiffe://cluster.local/ns/default/sa/web" || d.Destination != "items.default.svc.cluster.local:80" {
					t.Errorf("kept is %+v", d)
				}
				reason := d.Provider
				if d.Explanation != nil {
					reason += string(d.Explanation.Reason)
				}
				why = append(why, reason)
			}
			slices.Sort(why)
			if got, want := strings.Join(why, "; "), "denyRule; denyRule; gate: denied; gate: there is no such authorizer; noProvider"; got != want {
				t.Errorf("kept is %s, want %s", got, want)
			}
		})
	}
}

// TestOpaqueTunnelsAreAskedOverGRPC asks a real service, which sees who connects
// and no request.
func TestOpaqueTunnelsAreAskedOverGRPC(t *testing.T) {
	for name, ok := range map[string]bool{"web": true, "banned": false} {
		t.Run(name, func(t *testing.T) {
			a := withAuthorizers(t, meshtest.Options{})
			dial := talker(t, a.m, name, "tcp")
			a.addFor(authz.Provider{Name: "grpc", Kind: authz.GRPC, Service: "a", Port: 1}, dialTo(serveCheck(t)), "[{}]")
			if c := dial().want(ok); ok {
				c.Close()
			}
		})
	}
}
