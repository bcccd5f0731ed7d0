package waypoint

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystone-mesh/waystone/internal/h2"
)

// TestClocks waits in no time at all for what limits a peer that does nothing.
func TestClocks(t *testing.T) {
	for _, c := range []struct {
		name  string
		do    func(r *rig, w *wire)
		after time.Duration // when the tunnel is reset, or closed
		reset bool
	}{
		{"a part of a head", func(_ *rig, w *wire) { w.arrive("GET / HTTP/1.1\r\nHo") }, time.Minute, true},
		{"a part of a method", func(_ *rig, w *wire) { w.arrive("PRI * HT") }, time.Minute, false},
		{"a connection that is not closed after an error", func(_ *rig, w *wire) { w.arrive("GET /\r\n\r\n") }, closeTimeout, true},
		{"an idle connection", func(r *rig, w *wire) { w.arrive("GET /%00 HTTP/1.1\r\nHost: items\r\n\r\n") }, time.Hour, false},
		{"HTTP/2 that is not closed after an error", func(_ *rig, w *wire) {
			w.arrive("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + strings.Repeat("x", 20))
		}, closeTimeout, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				w := newWire()
				r.do(func() {
					r.declare()
					r.openOn(w)
				})
				r.do(func() { c.do(r, w) })
				over := func() (over bool) {
					r.do(func() { over = w.reset || w.closed && !c.reset })
					return over
				}
				time.Sleep(c.after - 2*time.Second)
				if over() {
					t.Errorf("over before %v", c.after)
				}
				time.Sleep(10 * time.Second)
				if !over() {
					t.Errorf("still there after %v", c.after)
				}
				r.do(func() { w.peerReset(nil) })
				r.wantNothingLeft()
			})
		})
	}
}

// TestSilentClientsCannotHide refuses who says nothing where a policy asks for the
// server name, or half of a greeting: what comes later would not be heard.
func TestSilentClientsCannotHide(t *testing.T) {
	for name, said := range map[string]string{"nothing": "", "half a greeting": "\x16\x03\x01\x00\x80\x01"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				r.apply(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: named, namespace: default}
spec:
  targetRefs: [{kind: Service, group: "", name: items}]
  action: DENY
  rules: [{when: [{key: connection.sni, values: [bad.example.com]}]}]
`)
				w := newWire()
				r.do(func() {
					r.openOn(w)
					w.arrive(said)
				})
				time.Sleep(2*detectTimeout + time.Second)
				r.do(func() {
					if !w.reset || len(r.dials) > 0 {
						t.Errorf("reset: %v; %d dials", w.reset, len(r.dials))
					}
				})
				if log := strings.Join(r.logged(), ""); !strings.Contains(log, `"connection_termination_details":"waypoint:_a_policy_asks_for_the_server_name`) {
					t.Errorf("logged %s", log)
				}
				r.wantNothingLeft()
			})
		})
	}
}

// TestUpstreamsAreGivenUp closes connections to endpoints that nobody has used
// for a minute, and resets those that the endpoint does not close in turn.
func TestUpstreamsAreGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		w1, w2 := newWire(), newWire()
		var leg1, leg2 *wire
		r.do(func() {
			r.openOn(w1)
			onlyOne(r)
			w1.arrive("GET / HTTP/1.1\r\nHost: items\r\n\r\n")
		})
		r.do(func() { leg1 = r.dials[0].connected() })
		r.do(func() { leg1.arrive("HTTP/1.1 204 No Content\r\n\r\n") })
		var s *h2Actor
		r.do(func() {
			r.openOn(w2)
			c := newH2Actor(r, w2, h2.Client)
			c.get()
		})
		r.do(func() {
			leg2 = r.dials[1].connected()
			s = newH2Actor(r, leg2, h2.Server)
		})
		r.do(func() { s.stream.Reset(nil); s.push() })
		time.Sleep(50 * time.Second)
		r.do(func() {
			if leg1.closed || leg2.closed {
				t.Errorf("closed early: %v, %v", leg1.closed, leg2.closed)
			}
		})
		time.Sleep(12 * time.Second)
		r.do(func() {
			if !leg1.closed || !leg2.closed || leg1.reset || leg2.reset {
				t.Errorf("after a minute: closed %v, %v; reset %v, %v", leg1.closed, leg2.closed, leg1.reset, leg2.reset)
			}
		})
		time.Sleep(7 * time.Second)
		r.do(func() {
			if !leg1.reset || !leg2.reset {
				t.Errorf("after five seconds more: reset %v, %v", leg1.reset, leg2.reset)
			}
			w1.peerReset(nil)
			w2.peerReset(nil)
		})
		r.wantNothingLeft()
	})
}
