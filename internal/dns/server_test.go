package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/telemetry"
)

// An authority is an upstream server in the hands of a test.
type authority struct {
	addr   netip.AddrPort
	asked  atomic.Int64
	answer atomic.Pointer[func(w dns.ResponseWriter, m *dns.Msg)]
}

// serve begins an authority that gives every name the address 192.0.2.1.
func serve(tb testing.TB) *authority {
	tb.Helper()
	a := new(authority)
	a.say(func(w dns.ResponseWriter, m *dns.Msg) {
		r := new(dns.Msg).SetReply(m)
		if strings.HasSuffix(m.Question[0].Name, ".nowhere.") {
			r.Rcode = dns.RcodeNameError
		} else {
			r.Answer = []dns.RR{address(m.Question[0].Name, netip.MustParseAddr("192.0.2.1"))}
		}
		w.WriteMsg(r)
	})
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		a.asked.Add(1)
		(*a.answer.Load())(w, m)
	})
	sockets := &Server{options: ServerOptions{Sockets: here{}}}
	if err := sockets.open(netip.MustParseAddrPort("127.0.0.1:0")); err != nil {
		tb.Fatal(err)
	}
	packets, ln := sockets.packets[0], sockets.listeners[0]
	a.addr = sockets.Addrs()[0]
	var serving sync.WaitGroup
	for _, s := range []*dns.Server{{PacketConn: packets, Handler: handler}, {Listener: ln, Handler: handler}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		serving.Go(func() { s.ActivateAndServe() })
		<-started
		tb.Cleanup(func() { s.Shutdown() })
	}
	return a
}

func (a *authority) say(f func(w dns.ResponseWriter, m *dns.Msg)) { a.answer.Store(&f) }

// A rig is a server on loopback, whose client is the pod at 127.0.0.1.
type rig struct {
	*Server
	addr string

	mu      sync.Mutex
	records []telemetry.DNS
}

// records of what was reported so far, as words.
func (r *rig) reported() (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range r.records {
		protocol := "udp"
		if rec.TCP {
			protocol = "tcp"
		}
		out = append(out, fmt.Sprintf("%s %s %s %s %d", protocol, rec.Type, rec.Name, rec.Result, rec.Answers))
	}
	return out
}

var shop = []string{
	"pod shop/client 127.0.0.1",
	"service shop/web vip=10.1.0.1 vip=fd00::1",
	"service shop/many " + manyVIPs(),
}

func manyVIPs() string {
	var words []string
	for i := range 200 {
		words = append(words, fmt.Sprintf("vip=10.2.0.%d", i))
	}
	return strings.Join(words, " ")
}

// begin starts a server of a mesh, which ends with the test and leaves nothing.
func begin(tb testing.TB, o ServerOptions, lines ...string) *rig {
	tb.Helper()
	r := new(rig)
	snap := world(tb, lines)
	o.Snapshot = func() *config.Snapshot { return snap }
	if o.Resolver == nil {
		o.Resolver = NewResolver(ResolverOptions{})
	}
	o.Report = func(rec *telemetry.DNS) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.records = append(r.records, *rec)
	}
	var err error
	if r.Server, err = Listen(o, netip.MustParseAddrPort("127.0.0.1:0")); err != nil {
		tb.Fatal(err)
	}
	r.addr = r.Addrs()[0].String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Serve(ctx) }()
	tb.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				tb.Error(err)
			}
		case <-time.After(10 * time.Second):
			tb.Error("the server has not ended")
		}
		if r.forwarding.total != 0 || len(r.forwarding.shares) != 0 || r.connections.total != 0 {
			tb.Errorf("left: %d questions, %d connections", r.forwarding.total, r.connections.total)
		}
	})
	return r
}

// ask asks over a network, with EDNS when size is not 0.
func (r *rig) ask(tb testing.TB, network, name string, qtype uint16, size uint16) *dns.Msg {
	tb.Helper()
	m := new(dns.Msg).SetQuestion(name, qtype)
	if size > 0 {
		m.SetEdns0(size, true)
	}
	c := dns.Client{Net: network, Timeout: 20 * time.Second}
	reply, _, err := c.Exchange(m, r.addr)
	if err != nil {
		tb.Fatalf("%s %s: %v", network, name, err)
	}
	return reply
}

func answersOf(m *dns.Msg) (out []string) {
	for _, rr := range m.Answer {
		out = append(out, strings.ReplaceAll(rr.String(), "\t", " "))
	}
	return out
}

func TestServerAnswersAndForwards(t *testing.T) {
	up := serve(t)
	r := begin(t, ServerOptions{Upstream: []netip.AddrPort{up.addr}}, shop...)
	for _, network := range []string{"udp", "tcp"} {
		m := r.ask(t, network, "web.", dns.TypeA, 0)
		if got := answersOf(m); !slices.Equal(got, []string{"web. 30 IN A 10.1.0.1"}) || !m.Authoritative || !m.RecursionAvailable {
			t.Errorf("%s: got %v", network, m)
		}
		if m := r.ask(t, network, "web.", dns.TypeAAAA, 0); len(m.Answer) != 1 {
			t.Errorf("%s: got %v", network, m)
		}
		if up.asked.Load() != 0 {
			t.Fatalf("%s: a name of the mesh was asked for elsewhere", network)
		}
		m = r.ask(t, network, "Example.com.", dns.TypeA, 0)
		if got := answersOf(m); !slices.Equal(got, []string{"Example.com. 30 IN A 192.0.2.1"}) || m.Authoritative {
			t.Errorf("%s: got %v", network, m)
		}
		if m := r.ask(t, network, "x.nowhere.", dns.TypeA, 0); m.Rcode != dns.RcodeNameError {
			t.Errorf("%s: got %v, want NXDOMAIN", network, m)
		}
		if m := r.ask(t, network, "web.", dns.TypeMX, 0); m.Authoritative {
			t.Errorf("%s: another type was not forwarded: %v", network, m)
		}
		up.asked.Store(0)
	}
	want := []string{
		"udp A web. success 1", "udp AAAA web. success 1", "udp A Example.com. forwarded 1", "udp A x.nowhere. forwarded 0", "udp MX web. forwarded 1",
		"tcp A web. success 1", "tcp AAAA web. success 1", "tcp A Example.com. forwarded 1", "tcp A x.nowhere. forwarded 0", "tcp MX web. forwarded 1",
	}
	if got := r.reported(); !slices.Equal(got, want) {
		t.Errorf("reported %q, want %q", got, want)
	}
}

func TestAnswersOverUDPAreCutToWhatTheClientTakes(t *testing.T) {
	up := serve(t)
	up.say(func(w dns.ResponseWriter, m *dns.Msg) {
		r := new(dns.Msg).SetReply(m) // longer than anybody asked for
		for i := range 200 {
			r.Answer = append(r.Answer, address(m.Question[0].Name, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})))
		}
		r.Compress = true
		w.WriteMsg(r)
	})
	r := begin(t, ServerOptions{Upstream: []netip.AddrPort{up.addr}}, shop...)
	for _, name := range []string{"many.", "example.com."} {
		for _, size := range []uint16{0, 100, 1232, 65535} {
			m := r.ask(t, "udp", name, dns.TypeA, size)
			m.Compress = true // as it came
			b, err := m.Pack()
			limit := max(int(min(size, maxPacket)), 512)
			if err != nil || len(b) > limit || !m.Truncated && len(m.Answer) != 200 || m.Truncated != (limit < 3000) {
				t.Errorf("%s with %d: %d bytes, %d answers, truncated %v, %v", name, size, len(b), len(m.Answer), m.Truncated, err)
			}
			if opt := m.IsEdns0(); name == "many." && (opt != nil) != (size > 0) {
				t.Errorf("%s with %d: EDNS %v", name, size, opt)
			} else if opt != nil && !opt.Do() {
				t.Errorf("%s with %d: the DO bit is gone", name, size)
			}
		}
		if m := r.ask(t, "tcp", name, dns.TypeA, 0); m.Truncated || len(m.Answer) != 200 {
			t.Errorf("%s over TCP: %d answers", name, len(m.Answer))
		}
	}
}

func TestWhoIsNotAWorkloadOfTheNodeIsNotAnswered(t *testing.T) {
	up := serve(t)
	for _, row := range []struct {
		name string
		pod  string
	}{
		{"nobody", "pod shop/client 127.0.0.9"},
		{"of another node", "pod shop/client 127.0.0.1 node=node-2"},
	} {
		r := begin(t, ServerOptions{Upstream: []netip.AddrPort{up.addr}, Resolver: NewResolver(ResolverOptions{Node: "node-1"})},
			row.pod, "service shop/web vip=10.1.0.1")
		for _, name := range []string{"web.shop.svc.cluster.local.", "example.com."} {
			if m := r.ask(t, "udp", name, dns.TypeA, 0); m.Rcode != dns.RcodeServerFailure || len(m.Answer) > 0 {
				t.Errorf("%s: %s: got %v", row.name, name, m)
			}
		}
	}
	if up.asked.Load() != 0 {
		t.Error("a stranger's question was forwarded")
	}
}

func TestAnIPv4ClientOfAnIPv6SocketIsKnown(t *testing.T) {
	snap := world(t, shop)
	r := NewResolver(ResolverOptions{})
	if r.Client(snap, netip.MustParseAddr("::ffff:127.0.0.1")) == nil {
		t.Error("it is not")
	}
}

func TestWhatIsNoQuestionIsRefused(t *testing.T) {
	up := serve(t)
	r := begin(t, ServerOptions{Upstream: []netip.AddrPort{up.addr}}, shop...)
	for _, row := range []struct {
		name string
		edit func(*dns.Msg)
		want int
	}{
		{"update", func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		{"two questions", func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
		{"no question", func(m *dns.Msg) { m.Question = nil }, dns.RcodeFormatError},
		{"an answer in it", func(m *dns.Msg) { m.Answer = []dns.RR{address("a.", netip.MustParseAddr("10.0.0.1"))} }, dns.RcodeFormatError},
		{"transfer", func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }, dns.RcodeRefused},
		{"EDNS 1", func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }, dns.RcodeBadVers},
		{"another class", func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeSuccess}, // forwarded
	} {
		m := new(dns.Msg).SetQuestion("web.", dns.TypeA)
		row.edit(m)
		for _, network := range []string{"udp", "tcp"} {
			reply, _, err := (&dns.Client{Net: network, Timeout: 20 * time.Second}).Exchange(m, r.addr)
			if err != nil || reply.Rcode != row.want {
				t.Errorf("%s over %s: got %v, %v, want %s", row.name, network, reply, err, dns.RcodeToString[row.want])
			}
		}
	}
}

// Where a question was redirected here, who was meant answers it; or whom we ask
// ourselves, where that is not known, or it was us.
func TestForwardsToWhomTheClientAsked(t *testing.T) {
	ours, meant := serve(t), serve(t)
	var asked atomic.Pointer[func(network string, client, here netip.AddrPort) (netip.AddrPort, error)]
	o := ServerOptions{Upstream: []netip.AddrPort{ours.addr}, Asked: func(network string, client, here netip.AddrPort) (netip.AddrPort, error) {
		return (*asked.Load())(network, client, here)
	}}
	r := begin(t, o, shop...)
	at := r.Addrs()[0]
	for _, row := range []struct {
		name        string
		server      netip.AddrPort
		err         error
		ours, meant int64
	}{
		{"another", meant.addr, nil, 0, 1},
		{"not known", netip.AddrPort{}, errors.New("not tracked"), 1, 0},
		{"us", at, nil, 1, 0},
		{"nobody", netip.AddrPort{}, nil, 1, 0},
		{"somewhere on a link", netip.MustParseAddrPort("[fe80::1]:53"), nil, 1, 0},
	} {
		for _, network := range []string{"udp", "tcp"} {
			f := func(n string, client, here netip.AddrPort) (netip.AddrPort, error) {
				if n != network || client.Addr() != at.Addr() || client.Port() == 0 || here != at {
					t.Errorf("%s over %s: asked about %s of %s to %s", row.name, network, n, client, here)
				}
				return row.server, row.err
			}
			asked.Store(&f)
			was, wasMeant := ours.asked.Load(), meant.asked.Load()
			if m := r.ask(t, network, "example.com.", dns.TypeA, 0); len(m.Answer) != 1 {
				t.Errorf("%s over %s: got %v", row.name, network, m)
			}
			if a, b := ours.asked.Load()-was, meant.asked.Load()-wasMeant; a != row.ours || b != row.meant {
				t.Errorf("%s over %s: ours was asked %d times, the one that was meant %d", row.name, network, a, b)
			}
			if m := r.ask(t, network, "web.", dns.TypeA, 0); len(m.Answer) != 1 || !m.Authoritative {
				t.Errorf("%s over %s: of the mesh: got %v", row.name, network, m)
			}
		}
	}
}

func TestUpstreamServersAreTriedInTurn(t *testing.T) {
	silent, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	troubled, good := serve(t), serve(t)
	troubled.say(func(w dns.ResponseWriter, m *dns.Msg) { w.WriteMsg(new(dns.Msg).SetRcode(m, dns.RcodeServerFailure)) })
	dead := silent.LocalAddr().(*net.UDPAddr).AddrPort()

	r := begin(t, ServerOptions{Upstream: []netip.AddrPort{dead, troubled.addr, good.addr}, Try: 50 * time.Millisecond, Patience: 20 * time.Second}, shop...)
	if m := r.ask(t, "udp", "example.com.", dns.TypeA, 0); len(m.Answer) != 1 {
		t.Errorf("got %v", m)
	}
	// Trouble is passed on when there is nothing better.
	r = begin(t, ServerOptions{Upstream: []netip.AddrPort{troubled.addr}}, shop...)
	if m := r.ask(t, "udp", "example.com.", dns.TypeA, 0); m.Rcode != dns.RcodeServerFailure || r.reported()[0] != "udp A example.com. forwarded 0" {
		t.Errorf("got %v, reported %v", m, r.reported())
	}
	r = begin(t, ServerOptions{Upstream: []netip.AddrPort{dead}, Try: 20 * time.Millisecond, Patience: 50 * time.Millisecond}, shop...)
	for _, network := range []string{"udp", "tcp"} {
		if m := r.ask(t, network, "example.com.", dns.TypeA, 0); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("%s: got %v", network, m)
		}
	}
	if got := r.reported(); len(got) != 2 || !strings.Contains(got[0], "forwarding failed") {
		t.Errorf("reported %q", got)
	}
}

func TestForgedAnswersArePassedOver(t *testing.T) {
	up := serve(t)
	up.say(func(w dns.ResponseWriter, m *dns.Msg) {
		bad := netip.MustParseAddr("203.0.113.66")
		forged := new(dns.Msg).SetReply(m)
		forged.Answer = []dns.RR{address(m.Question[0].Name, bad)}
		forged.Id++
		w.WriteMsg(forged)
		forged.Id--
		forged.Question[0].Name = "other."
		w.WriteMsg(forged)
		forged.Question[0].Name = m.Question[0].Name
		forged.Response = false
		w.WriteMsg(forged)
		w.Write([]byte{1, 2, 3})
		right := new(dns.Msg).SetReply(m)
		right.Answer = []dns.RR{address("example.com.", netip.MustParseAddr("192.0.2.1"))}
		right.Question[0].Name = "EXAMPLE.com."
		w.WriteMsg(right)
	})
	r := begin(t, ServerOptions{Upstream: []netip.AddrPort{up.addr}}, shop...)
	if got := answersOf(r.ask(t, "udp", "example.com.", dns.TypeA, 0)); !slices.Equal(got, []string{"example.com. 30 IN A 192.0.2.1"}) {
		t.Errorf("got %v", got)
	}
}

func TestForwardingIsBoundedForEachClient(t *testing.T) {
	up := serve(t)
	reached, release := make(chan struct{}, maxForwarding), make(chan struct{})
	up.say(func(w dns.ResponseWriter, m *dns.Msg) {
		reached <- struct{}{}
		<-release
		w.WriteMsg(new(dns.Msg).SetReply(m))
	})
	r := begin(t, ServerOptions{Upstream: []netip.AddrPort{up.addr}, Try: time.Minute, Patience: time.Minute}, shop...)
	defer close(release)
	c, err := net.Dial("udp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	share := maxForwarding / 8
	for i := range share {
		query, _ := new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.example.", i), dns.TypeA).Pack()
		if _, err := c.Write(query); err != nil {
			t.Fatal(err)
		}
		<-reached
	}
	if m := r.ask(t, "udp", "more.example.", dns.TypeA, 0); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("one more: got %v", m)
	}
	if m := r.ask(t, "tcp", "more.example.", dns.TypeA, 0); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("one more over TCP: got %v", m)
	}
	// The mesh's own names need nobody else.
	if m := r.ask(t, "udp", "web.", dns.TypeA, 0); len(m.Answer) != 1 {
		t.Errorf("a name of the mesh: got %v", m)
	}
}

func TestConnectionsAreBoundedAndEnd(t *testing.T) {
	up := serve(t)
	r := begin(t, ServerOptions{Upstream: []netip.AddrPort{up.addr}, Idle: time.Minute}, shop...)
	var held []*dns.Conn
	dial := func() (*dns.Conn, error) {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		conn := &dns.Conn{Conn: c}
		if err := conn.WriteMsg(new(dns.Msg).SetQuestion("web.", dns.TypeA)); err != nil {
			return nil, err
		}
		_, err = conn.ReadMsg()
		return conn, err
	}
	for range maxConnections / 8 {
		c, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	if _, err := dial(); err == nil {
		t.Error("a client has more connections than its share")
	}
	// A connection takes one question after the other, and ends with one too long.
	for range 3 {
		if err := held[0].WriteMsg(new(dns.Msg).SetQuestion("web.", dns.TypeA)); err != nil {
			t.Fatal(err)
		}
		if _, err := held[0].ReadMsg(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := held[0].Conn.Write([]byte{0xff, 0xff, 0}); err != nil {
		t.Fatal(err)
	}
	if _, err := held[0].ReadMsg(); err == nil {
		t.Error("a message of 65,535 bytes is read")
	}

	idle := begin(t, ServerOptions{Upstream: []netip.AddrPort{up.addr}, Idle: 20 * time.Millisecond}, shop...)
	c, err := net.Dial("tcp", idle.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("an idle connection: %v, want its end", err)
	}
}

func TestListenRefusesWhatCannotWork(t *testing.T) {
	up := netip.MustParseAddrPort("127.0.0.1:53")
	taken, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	self := taken.LocalAddr().(*net.UDPAddr).AddrPort()
	for _, row := range []struct {
		addr     string
		upstream []netip.AddrPort
		want     string
	}{
		{"0.0.0.0:0", []netip.AddrPort{up}, "is not a single address"},
		{"[::]:0", []netip.AddrPort{up}, "is not a single address"},
		{"127.0.0.1:0", nil, "no server to forward to"},
		{self.String(), []netip.AddrPort{up}, "address already in use"},
	} {
		_, err := Listen(ServerOptions{Upstream: row.upstream, Resolver: NewResolver(ResolverOptions{})}, netip.MustParseAddrPort(row.addr))
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %s", row.addr, err, row.want)
		}
	}
	taken.Close()
	for range 16 { // somebody else may have the port by TCP, or take it
		_, err = Listen(ServerOptions{Upstream: []netip.AddrPort{self}}, self)
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
		other, e := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if e != nil {
			t.Fatal(e)
		}
		self = other.LocalAddr().(*net.UDPAddr).AddrPort()
		other.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "go round for ever") {
		t.Errorf("itself as its upstream: got %v", err)
	}
}

func TestUpstreamIsReadFromResolvConf(t *testing.T) {
	for _, row := range []struct{ text, want string }{
		{"search a b\nnameserver 10.96.0.10\nnameserver fd00::10\noptions ndots:5\n", "[10.96.0.10:53 [fd00::10]:53]"},
		{"search a\n", "names no nameserver"},
		{"nameserver dns.example\n", `nameserver "dns.example" is not an address`},
	} {
		path := t.TempDir() + "/resolv.conf"
		if err := os.WriteFile(path, []byte(row.text), 0o600); err != nil {
			t.Fatal(err)
		}
		list, err := Upstream(path)
		if got := fmt.Sprint(list, err); !strings.Contains(got, row.want) {
			t.Errorf("%q: got %s, want %s", row.text, got, row.want)
		}
	}
	if _, err := Upstream(t.TempDir() + "/nothing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}
