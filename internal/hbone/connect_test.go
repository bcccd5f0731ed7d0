package hbone

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

func TestConnectFields(t *testing.T) {
	c := Connect{
		Authority: mesh.Authority{IP: netip.MustParseAddr("fd00::7"), Port: 9080},
		Baggage:   "service.name=web", Traceparent: "00-x", Network: "net1",
		Forwarded: Forwarded{For: netip.MustParseAddrPort("10.0.0.9:4242"), Host: "items.default.svc"}.String(),
	}
	var got []string
	for _, f := range c.Fields(nil) {
		got = append(got, f.Name+": "+f.Value)
	}
	want := []string{
		":method: CONNECT", ":authority: [fd00::7]:9080", "baggage: service.name=web",
		`forwarded: for="10.0.0.9:4242";host=items.default.svc`, "traceparent: 00-x", "x-forwarded-network: net1",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if back, err := ParseConnect(c.Fields(nil)); err != nil || back != c {
		t.Errorf("got %+v, %v", back, err)
	}
}

// fieldsOf reads "name: value" lines.
func fieldsOf(s string) (f l7.Fields) {
	for line := range strings.SplitSeq(s, "\n") {
		i := strings.LastIndex(line, ": ")
		if i < 0 {
			continue
		}
		f = append(f, l7.Field{Name: line[:i], Value: line[i+2:]})
	}
	return f
}

func TestParseConnectRefuses(t *testing.T) {
	for _, tt := range []struct{ fields, want string }{
		{"", "not a CONNECT"},
		{":method: GET\n:authority: a:80\n:scheme: http\n:path: /", "not a CONNECT"},
		{":method: connect\n:authority: a:80", "not a CONNECT"},
		{":method: CONNECT", "no :authority"},
		{":method: CONNECT\n:authority: ", "no :authority"},
		{":method: CONNECT\n:authority: a", "no port"},
		{":method: CONNECT\n:authority: a:0", "1 to 65535"},
		{":method: CONNECT\n:authority: ::1:80", "brackets"},
		{":method: CONNECT\n:authority: a b:80", "neither an address nor a host name"},
		{":method: CONNECT\n:authority: u@a:80", "neither an address nor a host name"},
		{":method: CONNECT\n:authority: a:80\n:authority: b:80", ":authority twice"},
		{":method: CONNECT\n:method: CONNECT\n:authority: b:80", ":method twice"},
		{":method: CONNECT\n:authority: a:80\n:path: /", `has ":path"`},
		{":method: CONNECT\n:authority: a:80\n:scheme: https", `has ":scheme"`},
		{":method: CONNECT\n:authority: a:80\n:protocol: websocket", `has ":protocol"`},
	} {
		c, err := ParseConnect(fieldsOf(tt.fields))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %+v, %v, want %q", tt.fields, c, err, tt.want)
		}
		if errors.Is(err, errNotConnect) != (tt.want == "not a CONNECT") {
			t.Errorf("%q: %v", tt.fields, err)
		}
	}
}

func TestParseConnectOwnsItsStrings(t *testing.T) {
	lent := []byte(":method: CONNECT\n:authority: Items.default.svc:80\nbaggage: service.name=a\nbaggage: service.version=b\nforwarded: for=x")
	c, err := ParseConnect(fieldsOf(string(lent)))
	if err != nil {
		t.Fatal(err)
	}
	if want := (Connect{Authority: mesh.Authority{Host: "items.default.svc", Port: 80}, Baggage: "service.name=a,service.version=b", Forwarded: "for=x"}); c != want {
		t.Errorf("got %+v, want %+v", c, want)
	}
	if b := ParseBaggage(c.Baggage); b.Service != "a" || b.Revision != "b" {
		t.Errorf("got %+v", b)
	}
}

func TestForwarded(t *testing.T) {
	ap := netip.MustParseAddrPort
	for _, tt := range []struct {
		in   string
		want Forwarded
	}{
		{`for="10.0.0.9:4242";host=items.default.svc`, Forwarded{ap("10.0.0.9:4242"), "items.default.svc"}},
		{`for="[fd00::9]:4242"`, Forwarded{For: ap("[fd00::9]:4242")}},
		{`For=10.0.0.9;Host="items"`, Forwarded{netip.AddrPortFrom(netip.MustParseAddr("10.0.0.9"), 0), "items"}},
		{`for="[fd00::9]"`, Forwarded{For: netip.AddrPortFrom(netip.MustParseAddr("fd00::9"), 0)}},
		{`proto=https; host=a ;for=unknown`, Forwarded{Host: "a"}},
		{`host=a, host=b`, Forwarded{Host: "a"}},
		{`host="a, b";for="10.0.0.9:1", for="10.0.0.8:1"`, Forwarded{ap("10.0.0.9:1"), "a, b"}},
		{`host="a`, Forwarded{}},
		{`;;,host=a`, Forwarded{}},
		{`novalue;host=a`, Forwarded{Host: "a"}},
		{``, Forwarded{}},
	} {
		if got := ParseForwarded(tt.in); got != tt.want {
			t.Errorf("%q: got %+v, want %+v", tt.in, got, tt.want)
		}
	}
	if got := (Forwarded{Host: "not a token"}).String(); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestTraceparent(t *testing.T) {
	a, b := NewTraceparent(), NewTraceparent()
	if a == b || !ValidTraceparent(a) || !strings.HasSuffix(a, "-00") {
		t.Errorf("got %q and %q", a, b)
	}
	for _, s := range []string{"", a[:54], a + "0", "01" + a[2:], strings.ToUpper(a), "00-" + strings.Repeat("0", 32) + a[35:], a[:36] + strings.Repeat("0", 16) + a[52:]} {
		if ValidTraceparent(s) && s != a {
			t.Errorf("%q is valid", s)
		}
	}
}

func TestBaggage(t *testing.T) {
	w := &mesh.Workload{
		Name: "reviews-v1-abc", Namespace: "default", ClusterID: "Kubernetes", OwnerKind: "deployment", OwnerName: "reviews-v1",
		CanonicalName: "reviews", CanonicalRevision: "v1", Locality: mesh.Locality{Region: "eu", Zone: "eu-1"},
	}
	const want = "k8s.cluster.name=Kubernetes,k8s.namespace.name=default,k8s.deployment.name=reviews-v1,service.name=reviews,service.version=v1,cloud.region=eu,cloud.availability_zone=eu-1"
	b := BaggageOf(w)
	if got := b.String(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := ParseBaggage(want); got != b {
		t.Errorf("got %+v, want %+v", got, b)
	}
	w.OwnerKind, w.OwnerName, w.ClusterID = "", "", "a,b"
	if got := BaggageOf(w).String(); strings.Contains(got, "cluster") || !strings.Contains(got, "k8s.pod.name=reviews-v1-abc") {
		t.Errorf("got %q", got)
	}
	got := ParseBaggage(" k8s.job.name = j ;prop=1 , service.name=,nonsense,=,x=y,cloud.region=e\tu, service.version=v2")
	if want := (Baggage{Kind: "job", Workload: "j", Revision: "v2"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func FuzzConnect(f *testing.F) {
	for _, s := range []string{
		":method: CONNECT\n:authority: 10.0.0.7:80\nbaggage: service.name=a\nforwarded: for=\"10.0.0.1:1\";host=a",
		":method: CONNECT\n:authority: [fd00::7]:80\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
		":method: CONNECT\n:authority: items.default.svc.cluster.local:80\nx-forwarded-network: n\nx-istio-source: waypoint",
		":method: GET\n:authority: a:80\n:path: /", ":method: CONNECT\n:authority: a:80\n:protocol: websocket",
		":method: CONNECT\n:authority: a:80\nforwarded: for=\"a;b=\",c", "",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		fields := fieldsOf(s)
		c, err := ParseConnect(fields)
		if err != nil {
			return
		}
		if c.Authority.Port == 0 || c.Authority.IP.IsValid() == (c.Authority.Host != "") {
			t.Errorf("%q: %+v", s, c)
		}
		if again, err := ParseConnect(c.Fields(nil)); err != nil || again != c {
			t.Errorf("%q: %+v became %+v, %v", s, c, again, err)
		}
		fw := ParseForwarded(c.Forwarded)
		again := ParseForwarded(fw.String())
		if again.For != fw.For || token(fw.Host) && again.Host != fw.Host {
			t.Errorf("%q: %+v became %+v", c.Forwarded, fw, again)
		}
		if got := ValidTraceparent(c.Traceparent); got && len(c.Traceparent) != 55 {
			t.Errorf("ValidTraceparent(%q) is true", c.Traceparent)
		}
	})
}

func FuzzBaggage(f *testing.F) {
	for _, s := range []string{
		"k8s.cluster.name=Kubernetes,k8s.namespace.name=default,k8s.deployment.name=d,service.name=s,service.version=v,cloud.region=r,cloud.availability_zone=z",
		"k8s.pod.name=a,k8s.job.name=b", " a = b ;c=d,,=,service.name=\"x\"", "service.name=a%20b", ",;=",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b := ParseBaggage(s)
		if again := ParseBaggage(b.String()); again != b {
			t.Errorf("%q: %+v became %+v", s, b, again)
		}
		for _, v := range []string{b.Cluster, b.Namespace, b.Workload, b.Service, b.Revision, b.Region, b.Zone} {
			if strings.ContainsAny(v, "\r\n\x00,;") {
				t.Errorf("%q: %+v", s, b)
			}
		}
	})
}
