package dns

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/telemetry"
)

// offline returns a server without sockets.
func offline(tb testing.TB, lines ...string) *Server {
	snap := world(tb, lines)
	o := ServerOptions{Resolver: NewResolver(ResolverOptions{}), Snapshot: func() *config.Snapshot { return snap }}
	o.setDefaults()
	return &Server{options: o}
}

// FuzzQuestion holds the server to what it owes to bytes of any kind: no panic;
// to what is no question, no more than it sent; to a stranger, no records; over
// UDP, no more than he said that he takes.
func FuzzQuestion(f *testing.F) {
	s := offline(f, shop...)
	for _, name := range []string{"web.", "web.shop.svc.cluster.local.", "many.", "example.com.", ".", `a\.b.`, "_http._tcp.web."} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeANY, 65280} {
			m := new(dns.Msg).SetQuestion(name, qtype)
			b, _ := m.Pack()
			f.Add(b, true, false)
			m.SetEdns0(1232, true)
			b, _ = m.Pack()
			f.Add(b, false, true)
		}
	}
	f.Add([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01"), true, true)
	f.Fuzz(func(t *testing.T, query []byte, known, tcp bool) {
		from := netip.MustParseAddrPort("203.0.113.1:1")
		if known {
			from = netip.MustParseAddrPort("127.0.0.1:1")
		}
		sent := bytes.Clone(query)
		x := s.ask(query, way{from: from, tcp: tcp})
		switch {
		case !bytes.Equal(query, sent):
			t.Fatal("the question was written to")
		case x.forward && (x.msg == nil || !known || len(x.reply) > 0):
			t.Fatal("forwarded, and should not have been")
		case len(x.reply) == 0:
			return
		}
		m := new(dns.Msg)
		if err := m.Unpack(x.reply); err != nil {
			t.Fatalf("reply %x: %v", x.reply, err)
		}
		if m.Id != uint16(query[0])<<8|uint16(query[1]) || !m.Response {
			t.Fatalf("no answer to %x: %x", query, x.reply)
		}
		if x.msg == nil && len(x.reply) > len(query) {
			t.Fatalf("%d bytes for %d that are no question", len(x.reply), len(query))
		}
		if x.msg != nil && len(x.reply) > x.limit {
			t.Fatalf("%d bytes, and the client takes %d", len(x.reply), x.limit)
		}
		// EDNS is 11 bytes where the client's may have been left out of its own
		// compression; no record is.
		if !known && (len(m.Answer) > 0 || len(x.reply) > len(query)+11) {
			t.Fatalf("a stranger gets %v", m)
		}
	})
}

// FuzzUpstream holds the reading of what an upstream server sends to no panic,
// and what is passed on to what the client takes.
func FuzzUpstream(f *testing.F) {
	m := new(dns.Msg).SetQuestion("example.com.", dns.TypeA)
	query, _ := m.Pack()
	reply := new(dns.Msg).SetReply(m)
	for range 100 {
		reply.Answer = append(reply.Answer, address("example.com.", netip.MustParseAddr("192.0.2.1")))
	}
	b, _ := reply.Pack()
	f.Add(b)
	f.Add(b[:headerSize])
	f.Add(b[:40])
	f.Fuzz(func(t *testing.T, reply []byte) {
		if !answers(reply, query, m.Question[0]) {
			return
		}
		x := &exchange{msg: m, limit: dns.MinMsgSize, rec: telemetry.DNS{}}
		if len(reply) > x.limit {
			if out := shorten(reply, x); len(out) > x.limit || len(out) < headerSize {
				t.Fatalf("%d bytes", len(out))
			}
		}
	})
}

// BenchmarkAnswer is an answer from the mesh, from bytes to bytes: by its whole
// name, by the short one, and what is found to be no name of the mesh's.
func BenchmarkAnswer(b *testing.B) {
	s := offline(b, shop...)
	from := way{from: netip.MustParseAddrPort("127.0.0.1:1")}
	for _, name := range []string{"web.shop.svc.cluster.local.", "web.", "www.example.com."} {
		query, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.ask(query, from)
			}
		})
	}
}
