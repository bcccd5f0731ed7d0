package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// An agent is a Workload API server: it sends what it is given.
type agent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	updates chan *workload.X509SVIDResponse
	fail    error // instead of an answer
}

func (a *agent) FetchX509SVID(_ *workload.X509SVIDRequest, s grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	if md, _ := metadata.FromIncomingContext(s.Context()); len(md.Get("workload.spiffe.io")) != 1 {
		return status.Error(codes.InvalidArgument, "security header missing")
	}
	if a.fail != nil {
		return a.fail
	}
	for {
		select {
		case u := <-a.updates:
			if err := s.Send(u); err != nil {
				return err
			}
		case <-s.Context().Done():
			return nil
		}
	}
}

// serve serves a on a socket and returns its path.
func (a *agent) serve(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(g, a)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(ln) }()
	t.Cleanup(func() { g.Stop(); <-done })
	return path
}

func svid(t *testing.T, ca *testCA, id string, c *tls.Certificate) *workload.X509SVID {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return &workload.X509SVID{SpiffeId: id, X509Svid: c.Certificate[0], X509SvidKey: key, Bundle: ca.cert.Raw}
}

func TestSPIFFEPicksAndRotates(t *testing.T) {
	ca, fed := newTestCA(t), newTestCA(t)
	a := &agent{updates: make(chan *workload.X509SVIDResponse, 4)}
	var log logBuffer
	src := open(t, "spiffe:unix://"+a.serve(t), Options{Aliases: []string{"old.local"}, Log: slog.New(slog.NewTextHandler(&log, nil))})

	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := src.Certificate(gone, web); !errors.Is(err, context.Canceled) {
		t.Errorf("before the first update: %v", err)
	}

	first, second, other := ca.leaf(web, nil), ca.leaf(web, nil), ca.leaf(items, nil)
	odd := ca.leaf(ID{}, func(c *x509.Certificate) { c.URIs[0] = uri("spiffe://cluster.local/node/x") })
	a.updates <- &workload.X509SVIDResponse{
		Svids: []*workload.X509SVID{
			svid(t, ca, "spiffe://cluster.local/node/x", odd),
			svid(t, ca, items.String(), other),
			svid(t, ca, web.String(), first),
		},
		FederatedBundles: map[string][]byte{"spiffe://friends": fed.cert.Raw},
	}
	ctx := context.Background()
	got, err := src.Certificate(ctx, web) // waits
	if err != nil || got.Leaf.SerialNumber.Cmp(first.Leaf.SerialNumber) != 0 {
		t.Fatalf("got %v, %v", got, err)
	}
	if got, err := src.Certificate(ctx, items); err != nil || got.Leaf.SerialNumber.Cmp(other.Leaf.SerialNumber) != 0 {
		t.Errorf("of the other identity: %v, %v", got, err)
	}
	if _, err := src.Certificate(ctx, ID{"cluster.local", "a", "b"}); err == nil || !strings.Contains(err.Error(), JoinIDs(web, items)) {
		t.Errorf("of an identity that the agent did not give: %v", err)
	}
	for _, td := range []string{"cluster.local", "old.local", "friends"} {
		if !src.Roots().Has(spiffeid.RequireTrustDomainFromString(td)) {
			t.Errorf("no roots for %s", td)
		}
	}
	if _, cerr, serr := shake(ClientConfig(src, web, items), ServerConfig(src, items)); cerr != nil || serr != nil {
		t.Errorf("handshake: client: %v, server: %v", cerr, serr)
	}

	a.updates <- &workload.X509SVIDResponse{Svids: []*workload.X509SVID{svid(t, ca, web.String(), second)}}
	deadline := time.Now().Add(30 * time.Second)
	for got.Leaf.SerialNumber.Cmp(second.Leaf.SerialNumber) != 0 && time.Now().Before(deadline) {
		if got, err = src.Certificate(ctx, web); err != nil {
			t.Fatal(err)
		}
	}
	if got.Leaf.SerialNumber.Cmp(second.Leaf.SerialNumber) != 0 {
		t.Error("the renewed certificate never came")
	}
	noSecret(t, log.String(), first)
	noSecret(t, log.String(), second)
}

func TestSPIFFESaysWhyThereIsNothing(t *testing.T) {
	refusing := &agent{fail: status.Error(codes.PermissionDenied, "no identity issued")}
	for name, spec := range map[string]string{
		"no identity issued":     "spiffe:" + refusing.serve(t),
		"connection error":       "spiffe:" + filepath.Join(t.TempDir(), "none.sock"),
		"SPIFFE_ENDPOINT_SOCKET": "spiffe:",
	} {
		t.Setenv("SPIFFE_ENDPOINT_SOCKET", "")
		src, err := Open(spec, Options{})
		if err == nil {
			s := src.(*SPIFFE)
			ctx, cancel := context.WithCancel(context.Background())
			go func() { // until go-spiffe has tried once
				defer cancel()
				for s.trouble(nil) == nil {
					select {
					case <-s.done:
						return
					case <-time.After(time.Millisecond):
					}
				}
			}()
			_, err = src.Certificate(ctx, web)
			if cerr := Close(src); cerr != nil {
				t.Error(cerr)
			}
		}
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("Open(%q): %v, want %q in it", spec, err, name)
		}
	}
}
