package hbone

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/memnet"
)

func TestRecheckCutsWhatIsNoLongerTrusted(t *testing.T) {
	bad := errors.New("no longer trusted")
	other := identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "other"}
	for name, recheck := range map[string]func(*rig, func(*tls.ConnectionState) error){
		"server": func(r *rig, f func(*tls.ConnectionState) error) { r.srv.Recheck(f) },
		"pool":   func(r *rig, f func(*tls.ConnectionState) error) { on(r.pool.o.Loop, func() { r.pool.Recheck(f) }) },
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, rigOptions{}, func(r *rig) {
				near, stays := r.open("open"), r.begin(Key{Self: other, Wants: items.String(), Addr: r.addr}, connectTo("echo"))
				if err := <-stays.err; err != nil {
					t.Fatal(err)
				}
				far, calls := r.end(1), atomic.Int64{}
				recheck(r, func(state *tls.ConnectionState) error {
					calls.Add(1)
					if id, err := identity.PeerID(*state); name == "pool" && calls.Load() == 1 || err == nil && id == web {
						return bad
					}
					return nil
				})
				if name == "pool" { // either connection, since both are to items
					synctest.Wait()
					if s := r.stats(); s.Conns != 1 || calls.Load() != 2 {
						t.Errorf("got %+v after %d calls", s, calls.Load())
					}
					return
				}
				if err := far.untilReset(); !errors.Is(err, bad) {
					t.Errorf("here: %v", err)
				}
				if err := near.untilReset(); err == nil {
					t.Error("there: in order")
				}
				if got := stays.e.roundTrip("still"); got != "still" {
					t.Errorf("of another peer: got %q", got)
				}
				if got := r.open("echo").roundTrip("again"); got != "again" {
					t.Errorf("on a new connection: got %q", got)
				}
			})
		})
	}
}

// A late source has revocation lists only once it has been asked often enough.
type late struct {
	identity.Source
	asked  *atomic.Int64
	after  int64
	revoke *identity.Terms
}

func (l late) Terms() *identity.Terms {
	if l.asked.Add(1) > l.after {
		return l.revoke
	}
	return l.Source.Terms()
}

// TestRevokedBetweenHandshakeAndLoop has a list come when the handshake has been
// held against those before it, and the loop does not have the connection yet.
func TestRevokedBetweenHandshakeAndLoop(t *testing.T) {
	dir := t.TempDir()
	ids, err := identity.Open("self:"+dir, identity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	revoking := func(id identity.ID) *identity.Terms {
		path := revoke(t, dir, ids, id)
		src, err := identity.Open("self:"+dir, identity.Options{CRL: path})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = identity.Close(src) })
		return src.Terms()
	}
	// The configuration asks for terms once and the handshake once.
	webGone, itemsGone := revoking(web), revoking(items)
	for name, sources := range map[string][2]identity.Source{
		"server": {ids, late{ids, new(atomic.Int64), 2, webGone}},
		"client": {late{ids, new(atomic.Int64), 2, itemsGone}, ids},
	} {
		t.Run(name, func(t *testing.T) {
			n := memnet.New()
			group, err := loop.NewGroup(1, loop.Options{Portable: true})
			if err != nil {
				t.Fatal(err)
			}
			defer group.Close()
			closed := make(chan error, 8)
			events := Events{HandshakeFailed: func(_ netip.AddrPort, err error) { closed <- err }}
			so := ServerOptions{Self: func(netip.AddrPort) identity.ID { return items }, Identity: sources[1], Loops: group, Connect: func(in *Incoming) { in.Accept(&sink{}, nil) }}
			po := PoolOptions{Loop: group.Loops()[0], Identity: sources[0], Dial: n.Dial}
			if name == "server" {
				so.Events = events
			} else {
				po.Events = events
			}
			srv, pool := NewServer(so), NewPool(po)
			addr := netip.AddrPortFrom(itemIP, 15008)
			ln, served := n.Listen(addr), make(chan error, 1)
			go func() { served <- srv.Serve(ln) }()
			failed := make(chan error, 1)
			on(po.Loop, func() {
				pool.Open(Key{Self: web, Wants: items.String(), Addr: addr}, connectTo("sink"), newEnd(), func(_ *Tunnel, err error) { failed <- err })
			})
			if err := <-failed; err == nil {
				t.Fatal("a tunnel was opened")
			}
			if err, ok := errors.AsType[*identity.RevokedError](<-closed); !ok {
				t.Errorf("failed with %v", err)
			}
			_ = pool.Shutdown(t.Context())
			_ = srv.Shutdown(t.Context())
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}

// revoke returns the path of a list on which the certificate of id is that the CA
// in dir has issued.
func revoke(t *testing.T, dir string, ids identity.Source, id identity.ID) string {
	t.Helper()
	cert, err := ids.Certificate(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := tls.X509KeyPair(text, text)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: cert.Leaf.SerialNumber, RevocationTime: time.Now()}},
	}, ca.Leaf, ca.PrivateKey.(crypto.Signer))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "crl.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
