package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/script"
)

// goldenLog compares lines of a log in one of its two encodings with
// testdata/name_text.golden or name_json.golden.
func goldenLog(tb testing.TB, name string, asJSON bool, got string) {
	tb.Helper()
	encoding := "text"
	if asJSON {
		encoding = "json"
		for line := range strings.Lines(got) {
			if !json.Valid([]byte(line)) {
				tb.Errorf("not JSON: %s", line)
			}
		}
	}
	script.Golden(tb, "testdata/"+name+"_"+encoding+".golden", got)
}

// A sink keeps what is written to it.
type sink struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// take returns what was written since the last time.
func (s *sink) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.b.Reset()
	return s.b.String()
}

// A rig is a Telemetry whose lines and clock are in the test's hands.
type rig struct {
	*Telemetry
	out sink // the program's log

	access    sink
	accessLog *Writer
}

// lines returns what the access log has been given since the last time.
func (r *rig) lines(tb testing.TB) string {
	tb.Helper()
	if err := r.accessLog.Flush(context.Background()); err != nil {
		tb.Fatal(err)
	}
	return r.access.take()
}

var (
	noon  = time.Date(2023, 8, 28, 10, 39, 33, 716634000, time.UTC)
	never = 1000 * time.Hour
)

func newRig(tb testing.TB, o Options) *rig {
	tb.Helper()
	r := new(rig)
	w, err := NewWriter(WriterOptions{Output: &r.access, Linger: -1})
	if err != nil {
		tb.Fatal(err)
	}
	r.accessLog, o.AccessLog = w, w
	if o.now == nil {
		o.now = func() time.Time { return noon }
	}
	if o.Log == nil {
		o.Log = newLog(tb, LogOptions{Output: &r.out, Level: "debug"})
	}
	if o.sweep == 0 {
		o.sweep = never
	}
	t, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	r.Telemetry = t
	tb.Cleanup(func() {
		if err := t.Shutdown(context.Background()); err != nil {
			tb.Error(err)
		}
		if err := w.Close(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	return r
}

func newLog(tb testing.TB, o LogOptions) *Log {
	tb.Helper()
	if o.now == nil {
		o.now = func() time.Time { return noon }
	}
	l, err := NewLog(o)
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

func workload(namespace, owner, account, ip string) *mesh.Workload {
	return &mesh.Workload{
		UID: "Kubernetes//Pod/" + namespace + "/" + owner + "-7656c-x1", Name: owner + "-7656c-x1",
		Namespace: namespace, ServiceAccount: account, TrustDomain: "cluster.local", ClusterID: "Kubernetes",
		CanonicalName: owner[:len(owner)-3], CanonicalRevision: owner[len(owner)-2:],
		OwnerKind: "deployment", OwnerName: owner, Addresses: []netip.Addr{netip.MustParseAddr(ip)},
	}
}

func account(namespace, name string) identity.ID {
	return identity.ID{TrustDomain: "cluster.local", Namespace: namespace, ServiceAccount: name}
}

var (
	productpage = workload("bookinfo", "productpage-v1", "bookinfo-productpage", "10.244.1.24")
	reviews     = workload("bookinfo", "reviews-v1", "bookinfo-reviews", "10.244.1.22")
	reviewsSvc  = &mesh.Service{Name: "reviews", Namespace: "bookinfo", Hostname: "reviews.bookinfo.svc.cluster.local"}
	gateway     = &mesh.Workload{
		Name: "waypoint-5d8f-z9", Namespace: "bookinfo", ServiceAccount: "waypoint", TrustDomain: "cluster.local",
		ClusterID: "Kubernetes", CanonicalName: "waypoint", OwnerKind: "deployment", OwnerName: "waypoint",
	}
)

func ends() Ends {
	return Ends{
		Source: productpage, Dest: reviews, Service: reviewsSvc,
		SourceID: account("bookinfo", "bookinfo-productpage"), LocalID: account("bookinfo", "waypoint"),
		Target:     mesh.Authority{IP: netip.MustParseAddr("10.96.12.4"), Port: 9080},
		SourceAddr: netip.MustParseAddrPort("10.244.1.24:48410"),
		LocalAddr:  netip.MustParseAddrPort("10.96.12.4:9080"),
	}
}

// exchange returns the record of a GET that went well.
func exchange() *HTTP {
	rec := &HTTP{
		Ends: ends(),
		Outcome: Outcome{
			Start: noon, Duration: 42*time.Millisecond + 174750, Details: "via_upstream",
			Received: 12, Sent: 4183,
			Upstream: netip.MustParseAddrPort("10.244.1.22:9080"), UpstreamTunnelled: true,
			Cluster:   Cluster{Kind: InboundVIP, Port: 9080, Host: "reviews.bookinfo.svc.cluster.local"},
			RouteName: "default",
		},
		Method: "GET", Path: "/reviews/0?x=1", Protocol: "HTTP/1.1", Authority: "reviews:9080",
		UserAgent: "curl/8.2.1", RequestID: "9a1f7a5e-6e5f-4b7c-9c1f-51ad0a0f5d4b",
		Status: 200, ServiceTime: 41 * time.Millisecond, ReceivedWire: 130, SentWire: 4400,
	}
	return rec
}

// connection returns the record of a tunnel from productpage to reviews.
func connection(r Reporter) *TCP {
	rec := &TCP{Ends: ends(), HBONE: true}
	rec.Reporter = r
	rec.DestID = account("bookinfo", "bookinfo-reviews")
	rec.Trace, _ = ParseTraceparent("00-86e9aa3b1c2d4e5f60718293a4b5c6d7-0102030405060708-00")
	rec.Target = mesh.Authority{IP: netip.MustParseAddr("10.244.1.22"), Port: 9080}
	rec.Start = noon
	if r == ByDestination {
		rec.LocalAddr = netip.MustParseAddrPort("10.244.1.22:15008")
	} else {
		rec.Upstream = netip.MustParseAddrPort("10.244.1.22:15008")
	}
	return rec
}
