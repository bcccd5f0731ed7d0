package identity

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// A SPIFFE source is a client of the SPIFFE Workload API, which SPIRE's agent
// serves. The agent pushes every SVID that we are entitled to, and renews them;
// Certificate picks by ID.
//
// A node tunnel has as many identities as its pods, and there the Workload API has
// a limit: the agent attests who calls, which is the node tunnel and never the pod.
// So each identity of the node's pods needs a registration entry with the node
// tunnel's selectors (say k8s:ns:istio-system and k8s:sa:ztunnel) and the node's
// agent for its parent. The agent then hands all of them over, and renews them; but
//
//   - that a pod of the service account runs here, as istiod checks for each
//     certificate, nobody checks: who makes the entries vouches for it, and an entry
//     whose parent is every agent lets every node be that identity;
//   - nothing is asked for: the SVID of a new account is there when the agent has
//     synchronized its entry, 5 s by SPIRE's default, until which Certificate fails
//     and says so;
//   - every renewal of one brings all of them anew.
//
// SPIRE's Delegated Identity API, by which a caller names the pod's selectors, is
// not used. Bundles of federated trust domains are received and believed of nobody:
// a peer must be of our trust domain or an alias of it.
type SPIFFE struct {
	// Immutable.
	name   string // as errors say it
	o      Options
	client *workloadapi.Client
	cancel context.CancelFunc
	done   chan struct{} // the watch has ended

	mu    sync.Mutex
	first chan struct{} // closed when the first update is there
	view  spiffeView    // guarded by mu
	err   error         // guarded by mu: the last trouble, nil after an update
}

type spiffeView struct {
	certs map[ID]*tls.Certificate
	roots *x509bundle.Set
}

// openSPIFFE starts watching the Workload API at addr: a path, or a URL of
// scheme unix or tcp. It does not wait for the agent; Certificate does.
func openSPIFFE(addr string, o Options) (*SPIFFE, error) {
	if strings.HasPrefix(addr, "/") || !strings.Contains(addr, ":") && addr != "" {
		abs, err := filepath.Abs(addr)
		if err != nil {
			return nil, fmt.Errorf("identity: spiffe:%s: %w", addr, err)
		}
		addr = "unix://" + abs
	}
	name := "identity: spiffe:" + addr
	if addr == "" {
		return nil, fmt.Errorf("%s: no socket, and SPIFFE_ENDPOINT_SOCKET is not set", name)
	}
	if err := workloadapi.ValidateAddress(addr); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(addr), workloadapi.WithLogger(spiffeLog{o.Log}))
	if err != nil {
		cancel()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	s := &SPIFFE{
		name: name, o: o, client: client, cancel: cancel,
		done: make(chan struct{}), first: make(chan struct{}),
		view: spiffeView{roots: x509bundle.NewSet()},
	}
	go s.run(ctx)
	return s, nil
}

func (s *SPIFFE) run(ctx context.Context) {
	defer close(s.done)
	err := s.client.WatchX509Context(ctx, spiffeWatcher{s})
	if ctx.Err() == nil { // the agent says that asking again is of no use
		s.o.Log.Error("identity: the Workload API gave up on us", "source", s.name, "error", err)
	}
}

// Close ends the watch.
func (s *SPIFFE) Close() error {
	s.cancel()
	<-s.done
	return s.client.Close()
}

// Roots implements [Source]. The set is empty before the first update.
func (s *SPIFFE) Roots() *x509bundle.Set {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view.roots
}

// Terms implements [Source].
func (s *SPIFFE) Terms() *Terms { return &s.o.Terms }

// Certificate implements [Source]. It waits for the agent's first answer.
func (s *SPIFFE) Certificate(ctx context.Context, id ID) (*tls.Certificate, error) {
	select {
	case <-s.first:
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %q: %w", s.name, id, s.trouble(ctx.Err()))
	case <-s.done:
		return nil, fmt.Errorf("%s: %q: %w", s.name, id, s.trouble(context.Canceled))
	}
	s.mu.Lock()
	view, err := s.view, s.err
	s.mu.Unlock()
	c := view.certs[id]
	if c == nil {
		have := make([]ID, 0, len(view.certs))
		for got := range view.certs {
			have = append(have, got)
		}
		return nil, fmt.Errorf("%s: %q: the agent gave us %q: is there an entry for this workload?", s.name, id, JoinIDs(have...))
	}
	if time.Now().After(c.Leaf.NotAfter) {
		if err == nil {
			err = fmt.Errorf("the agent has not renewed it")
		}
		return nil, fmt.Errorf("%s: %q: expired at %s: %w", s.name, id, c.Leaf.NotAfter.Format(time.RFC3339), err)
	}
	return c, nil
}

// trouble returns the reason why there is no update, or otherwise.
func (s *SPIFFE) trouble(otherwise error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	return otherwise
}

// A spiffeWatcher keeps what go-spiffe calls out of SPIFFE's exported methods.
type spiffeWatcher struct{ s *SPIFFE }

func (w spiffeWatcher) OnX509ContextUpdate(u *workloadapi.X509Context) {
	s := w.s
	view := spiffeView{certs: map[ID]*tls.Certificate{}, roots: s.o.aliased(u.Bundles)}
	for _, svid := range u.SVIDs {
		id, err := FromSPIFFE(svid.ID)
		if err != nil {
			s.o.Log.Warn("identity: an SVID is not of use here", "source", s.name, "error", err)
			continue
		}
		if view.certs[id] != nil { // the first of its kind is the preferred one (SPIFFE Workload API, section 5.2.1)
			continue
		}
		c := &tls.Certificate{PrivateKey: svid.PrivateKey, Leaf: svid.Certificates[0]}
		for _, cert := range svid.Certificates {
			c.Certificate = append(c.Certificate, cert.Raw)
		}
		view.certs[id] = c
		s.o.Log.Info("identity: received certificate", "source", s.name, "id", id.String(), "expires", c.Leaf.NotAfter)
	}
	if !view.roots.Has(spiffeid.RequireTrustDomainFromString(s.o.TrustDomain)) {
		s.o.Log.Warn("identity: the agent has no roots for our trust domain", "source", s.name, "trust_domain", s.o.TrustDomain)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view, s.err = view, nil
	select {
	case <-s.first:
	default:
		close(s.first)
	}
}

func (w spiffeWatcher) OnX509ContextWatchError(err error) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.s.err = err
}

// spiffeLog passes what go-spiffe says on. Its own warnings repeat at every
// attempt to connect: they are for debugging.
type spiffeLog struct{ log *slog.Logger }

func (l spiffeLog) Debugf(format string, args ...any) { l.log.Debug(fmt.Sprintf(format, args...)) }
func (l spiffeLog) Infof(format string, args ...any)  { l.log.Debug(fmt.Sprintf(format, args...)) }
func (l spiffeLog) Warnf(format string, args ...any)  { l.log.Debug(fmt.Sprintf(format, args...)) }
func (l spiffeLog) Errorf(format string, args ...any) { l.log.Warn(fmt.Sprintf(format, args...)) }
