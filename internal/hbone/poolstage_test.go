package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystone-mesh/waystone/internal/identity"
)

// uncertified is a source that has certificates of nobody.
type uncertified struct{ identity.Source }

func (uncertified) Certificate(context.Context, identity.ID) (*tls.Certificate, error) {
	return nil, errors.New("istiod does not sign for us")
}

// TestDialErrorsTellHowFarItCame: TCP, TLS and whose fault that was, HTTP/2.
func TestDialErrorsTellHowFarItCame(t *testing.T) {
	elsewhere := netip.MustParseAddrPort("10.0.0.9:15008")
	for name, c := range map[string]struct {
		prepare         func(r *rig, k *Key)
		handshake, none bool
		ended, alert    bool
		timeout         bool
	}{
		"nobody listens": {prepare: func(_ *rig, k *Key) { k.Addr = elsewhere }},
		"nobody answers": {prepare: func(r *rig, k *Key) { k.Addr = elsewhere; r.net.Stall(elsewhere.Addr(), true) }, timeout: true},
		"somebody else":  {prepare: func(_ *rig, k *Key) { k.Wants = web.String() }, handshake: true},
		"no certificate": {prepare: func(r *rig, _ *Key) { r.pool.o.Identity = uncertified{r.ids} }, handshake: true, none: true},
		"not for us":     {prepare: func(_ *rig, k *Key) { k.Self.TrustDomain = "foreign.local" }, ended: true, alert: true},
		"silent in TLS":  {prepare: func(r *rig, k *Key) { k.Addr = elsewhere; r.accept(elsewhere, nil) }, handshake: true, timeout: true},
		"not in HTTP/2":  {prepare: func(r *rig, k *Key) { k.Addr = elsewhere; r.accept(elsewhere, (*tls.Conn).Close) }, ended: true},
		"silent in it":   {prepare: func(r *rig, k *Key) { k.Addr = elsewhere; r.accept(elsewhere, func(*tls.Conn) error { return nil }) }, ended: true},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, rigOptions{}, func(r *rig) {
				k := r.key()
				c.prepare(r, &k)
				err := r.openErr(k, "echo")
				r.net.Stall(elsewhere.Addr(), false)
				handshake, failed := errors.AsType[*HandshakeError](err)
				if failed != c.handshake || failed && handshake.NoneOfOurs != c.none {
					t.Errorf("TLS failed: %t, for want of ours: %t; %v", failed, failed && handshake.NoneOfOurs, err)
				}
				said, alert := errors.AsType[*net.OpError](err)
				if alert = alert && said.Op == "remote error"; errors.Is(err, ErrEnded) != c.ended || alert != c.alert {
					t.Errorf("ended before HTTP/2: %t, by an alert: %t; %v", errors.Is(err, ErrEnded), alert, err)
				}
				if errors.Is(err, context.DeadlineExceeded) != c.timeout {
					t.Errorf("got %v, in time: %t", err, !c.timeout)
				}
				time.Sleep(2 * time.Minute) // of the bubble, for accept to close
				synctest.Wait()
				if _, ok := errors.AsType[*DialError](err); !ok || !NothingSent(err) || strings.Contains(err.Error(), "\n") {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

// accept takes one connection to addr, and with then shakes hands first. It is
// closed in the end.
func (r *rig) accept(addr netip.AddrPort, then func(*tls.Conn) error) {
	ln := r.net.Listen(addr)
	go func() {
		defer ln.Close()
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		time.AfterFunc(time.Minute, func() { nc.Close() })
		if then == nil {
			return
		}
		c := tls.Server(nc, identity.ServerConfig(r.ids, items))
		if c.Handshake() == nil {
			_ = then(c)
		}
	}()
}
