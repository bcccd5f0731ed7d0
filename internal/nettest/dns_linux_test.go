//go:build netns

package nettest_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/waystone-mesh/waystone/internal/capture"
	"github.com/waystone-mesh/waystone/internal/dns"
	"github.com/waystone-mesh/waystone/internal/meshtest"
	"github.com/waystone-mesh/waystone/internal/netns"
	"github.com/waystone-mesh/waystone/internal/nettest"
	"github.com/waystone-mesh/waystone/ztunnel"
)

// clusterDNS is where applications ask. Nobody is there.
var clusterDNS = netip.MustParseAddrPort("10.96.0.10:53")

// ask asks as the pod's application.
func ask(t *testing.T, from *nettest.Pod, server netip.AddrPort, network, name string, kind uint16) (*miekg.Msg, error) {
	t.Helper()
	var nc net.Conn
	var err error
	if network == "udp" {
		nc, err = from.Netns().DialPacket(t.Context(), server, netns.SocketOptions{})
	} else {
		nc, err = from.Open(t.Context(), server)
	}
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
	c := &miekg.Conn{Conn: nc}
	if err := c.WriteMsg(new(miekg.Msg).SetQuestion(name, kind)); err != nil {
		return nil, err
	}
	return c.ReadMsg()
}

func wantAnswer(t *testing.T, from *nettest.Pod, server netip.AddrPort, network, name, want string) {
	t.Helper()
	m, err := ask(t, from, server, network, name, miekg.TypeA)
	if err != nil {
		t.Errorf("%s asks %s by %s: %v", from.Name, name, network, err)
		return
	}
	var got []string
	for _, rr := range m.Answer {
		if a, ok := rr.(*miekg.A); ok {
			got = append(got, a.A.String())
		}
	}
	if !slices.Equal(got, []string{want}) {
		t.Errorf("%s asks %s by %s: %v %q, want %s", from.Name, name, network, miekg.RcodeToString[m.Rcode], got, want)
	}
}

// TestDNS answers what applications ask of a server that is not there: names of
// the mesh ourselves, others by a server of ours that we ask from the pod.
func TestDNS(t *testing.T) {
	t.Run("as told", func(t *testing.T) { askOurs(t, func(z *ztunnel.Options) { z.InPod.AskOurs = true }) })
	t.Run("registry only", func(t *testing.T) { askOurs(t, func(z *ztunnel.Options) { z.RegistryOnly = true }) })
}

func askOurs(t *testing.T, set func(*ztunnel.Options)) {
	o := nettest.Options{Capture: capture.Options{DNS: true}}
	o.Ztunnel = func(z *ztunnel.Options) {
		set(z)
		z.InPod.DNS = &dns.ServerOptions{
			Resolver: dns.NewResolver(dns.ResolverOptions{Node: z.Node}), Snapshot: z.Store.Snapshot,
			Upstream: []netip.AddrPort{netip.MustParseAddrPort("10.244.0.1:53")}, // the first pod's
		}
	}
	m := nettest.New(t, o)
	upstream := m.Pod("node-b", "upstream")
	web, items := m.Captured("node-a", "web"), m.Captured("node-b", "items")
	vip := m.Service("items", 80).IP
	echo(items)
	asked := serveDNS(t, upstream, upstream.IP)
	for _, network := range []string{"udp", "tcp"} {
		wantAnswer(t, web, clusterDNS, network, "items.default.svc.cluster.local.", vip.String())
		wantAnswer(t, items, clusterDNS, network, "items.default.svc.cluster.local.", vip.String())
		wantAnswer(t, web, clusterDNS, network, "example.org.", "192.0.2.7")
		wantAsked(t, asked, fmt.Sprintf("example.org. of %v", web.IP))
	}
	wantOpen(t, web, netip.AddrPortFrom(vip, 80)).Close()
	if n := len(asked); n > 0 {
		t.Errorf("upstream was asked %d times more", n)
	}
}

// TestDNSOfThePod forwards to the server that the pod has in its resolv.conf, which
// nobody tells the node tunnel, by both families.
func TestDNSOfThePod(t *testing.T) {
	o := nettest.Options{Capture: capture.Options{DNS: true, IPv6: true}}
	o.Ztunnel = func(z *ztunnel.Options) {
		z.InPod.DNS = &dns.ServerOptions{
			Resolver: dns.NewResolver(dns.ResolverOptions{Node: z.Node}), Snapshot: z.Store.Snapshot,
			Upstream: []netip.AddrPort{clusterDNS}, // nobody is there
		}
	}
	m := nettest.New(t, o)
	one, two := m.Pod("node-b", "one"), m.Pod("node-a", "two")
	web, items := m.Captured("node-a", "web"), m.Captured("node-b", "items")
	for _, p := range []*nettest.Pod{web, items, one, two} {
		m.Apply(dual(p))
	}
	vip := m.Service("items", 80).IP
	askedOne, askedTwo := serveDNS(t, one, one.IP), serveDNS(t, two, two.IP6())
	for _, network := range []string{"udp", "tcp"} {
		wantAnswer(t, web, netip.AddrPortFrom(one.IP, 53), network, "items.default.svc.cluster.local.", vip.String())
		wantAnswer(t, web, netip.AddrPortFrom(one.IP, 53), network, "example.org.", "192.0.2.7")
		wantAsked(t, askedOne, fmt.Sprintf("example.org. of %v", web.IP))
		wantAnswer(t, web, netip.AddrPortFrom(two.IP6(), 53), network, "example.net.", "192.0.2.7")
		wantAsked(t, askedTwo, fmt.Sprintf("example.net. of %v", web.IP6()))
	}
	if n := len(askedOne) + len(askedTwo); n > 0 {
		t.Errorf("the servers were asked %d times more", n)
	}
}

// wantAsked checks what a server was asked, by who has its answer.
func wantAsked(t *testing.T, asked <-chan string, want string) {
	t.Helper()
	select {
	case got := <-asked:
		if got != want {
			t.Errorf("the server was asked %s, want %s", got, want)
		}
	default:
		t.Errorf("the server was not asked %s", want)
	}
}

// serveDNS runs a server in a pod that says 192.0.2.7, and tells what it was asked.
func serveDNS(t *testing.T, p *nettest.Pod, ip netip.Addr) <-chan string {
	t.Helper()
	asked := make(chan string, 100)
	at := netip.AddrPortFrom(ip, 53)
	udp, err := p.Netns().ListenPacket(at, netns.SocketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := p.Netns().Listen(at, netns.SocketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	answer := miekg.HandlerFunc(func(w miekg.ResponseWriter, q *miekg.Msg) {
		host, _, _ := net.SplitHostPort(w.RemoteAddr().String())
		asked <- q.Question[0].Name + " of " + host
		r := new(miekg.Msg).SetReply(q)
		r.Answer = append(r.Answer, &miekg.A{
			Hdr: miekg.RR_Header{Name: q.Question[0].Name, Rrtype: miekg.TypeA, Class: miekg.ClassINET, Ttl: 60},
			A:   net.IPv4(192, 0, 2, 7),
		})
		_ = w.WriteMsg(r)
	})
	for _, s := range []*miekg.Server{{PacketConn: udp, Handler: answer}, {Listener: tcp, Handler: answer}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { _ = s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return asked
}

// dual is the pod with its IPv6 address.
func dual(p *nettest.Pod) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: %[2]s, labels: {app: %[1]s, version: v1}}
spec: {nodeName: %[3]s, serviceAccountName: %[1]s, containers: [{name: app, image: app, ports: [{containerPort: 8080}]}]}
status:
  phase: Running
  podIP: %[4]s
  podIPs: [{ip: %[4]s}, {ip: %[5]s}]
  conditions: [{type: Ready, status: "True"}]
`, p.Name, p.Namespace, p.Node(), p.IP, p.IP6())
}

// TestIPv6 is of pods that have both families.
func TestIPv6(t *testing.T) {
	for _, at := range places {
		t.Run(at.name, func(t *testing.T) {
			m := nettest.New(t, nettest.Options{Capture: capture.Options{IPv6: true}})
			web, items := m.Captured(at.client, "web"), m.Captured(at.server, "items")
			plain := m.Pod(at.client, "plain")
			for _, p := range []*nettest.Pod{web, items, plain} {
				m.Apply(dual(p))
			}
			echo(items)
			wantOpen(t, web, app(items)).Close()
			six := netip.AddrPortFrom(items.IP6(), meshtest.AppPort)
			ln, err := items.Netns().Listen(six, netns.SocketOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			go echoOn(ln)
			for _, from := range []*nettest.Pod{web, plain} {
				nc, client, err := open(t, from, six)
				if err != nil || client != from.IP6().String() {
					t.Fatalf("%s: the application sees %q, %v; want %v", from.Name, client, err, from.IP6())
				}
				wantEcho(t, nc)
				nc.Close()
			}
			m.WaitLog("direction", "outbound", "dst.addr", netip.AddrPortFrom(items.IP6(), 15008).String(), "dst.hbone_addr", six.String(),
				"src.identity", "spiffe://cluster.local/ns/default/sa/web", "dst.identity", "spiffe://cluster.local/ns/default/sa/items")
			m.WaitLog("direction", "inbound", "dst.addr", six.String(), "src.workload", "plain", "src.identity", "<nil>")
			m.Apply(strict)
			wantRefused(t, plain, six)
			wantOpen(t, web, app(items)).Close()
		})
	}
}
