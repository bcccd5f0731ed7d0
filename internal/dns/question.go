package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/waystone-mesh/waystone/telemetry"
)

const (
	headerSize = 12

	// maxPacket is the longest answer over UDP, whatever a client says that it
	// takes: between a pod and its node nothing is fragmented.
	maxPacket = 4096

	// ednsSize is what we say that we take ourselves.
	ednsSize = 1232
)

// A way is how a question came: from whom, to which address of ours.
type way struct {
	from, at netip.AddrPort
	tcp      bool
}

func (w way) client() netip.Addr { return w.from.Addr().Unmap() }

func (w way) network() string {
	if w.tcp {
		return "tcp"
	}
	return "udp"
}

// An exchange is a question, and its answer as far as there is one.
type exchange struct {
	way
	query   []byte // as it came; set by who forwards it
	msg     *dns.Msg
	limit   int    // how long the answer may be
	reply   []byte // empty: none is owed
	forward bool   // it is to be forwarded
	rec     telemetry.DNS
}

// ask reads a question and answers it, unless it is to be forwarded. What cannot
// be read as a question is answered with no more than its own header, so that
// nothing comes back that is longer than what was sent.
func (s *Server) ask(query []byte, w way) *exchange {
	x := &exchange{way: w}
	if len(query) < headerSize || query[2]&0x80 != 0 {
		return x // too short to answer, or an answer itself
	}
	m := new(dns.Msg)
	switch err := m.Unpack(query); {
	case err != nil || len(query) > maxQuery:
		x.reply = bare(query, dns.RcodeFormatError)
		return x
	case m.Opcode != dns.OpcodeQuery:
		x.reply = bare(query, dns.RcodeNotImplemented)
		return x
	case len(m.Question) != 1 || len(m.Answer) > 0 || len(m.Ns) > 0:
		x.reply = bare(query, dns.RcodeFormatError)
		return x
	}
	x.msg, x.limit = m, 65535
	if !w.tcp {
		x.limit = dns.MinMsgSize
		if opt := m.IsEdns0(); opt != nil {
			x.limit = min(max(int(opt.UDPSize()), dns.MinMsgSize), maxPacket)
		}
	}
	s.answer(x)
	return x
}

// bare returns the header of a query as that of an answer.
func bare(query []byte, rcode int) []byte {
	out := make([]byte, headerSize)
	copy(out, query[:4])
	out[2] = out[2]&^0x06 | 0x80 // QR; neither AA nor TC
	out[3] = byte(rcode)
	return out
}

// answer answers what is well formed, or says that it is to be forwarded.
func (s *Server) answer(x *exchange) {
	q := x.msg.Question[0]
	snap := s.options.Snapshot()
	client := s.options.Client(snap, x.client())
	x.rec = telemetry.DNS{Source: client, Name: q.Name, Type: dns.TypeToString[q.Qtype], TCP: x.tcp}
	switch opt := x.msg.IsEdns0(); {
	case client == nil:
		s.refuse(x, dns.RcodeServerFailure, "unknown source")
		return
	case opt != nil && opt.Version() != 0:
		s.refuse(x, dns.RcodeBadVers, "unknown version of EDNS")
		return
	case q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR:
		s.refuse(x, dns.RcodeRefused, "zones are not transferred")
		return
	}
	a, ok := s.options.Resolver.Answer(snap, client, q)
	if !ok {
		x.forward = true
		return
	}
	m := x.response(dns.RcodeSuccess)
	m.Authoritative, m.Answer, m.Extra = true, a.Records, append(a.Extra, m.Extra...)
	x.rec.Result, x.rec.Answers = "success", len(a.Records)
	if len(a.Records) == 0 {
		x.rec.Result = "no records"
	}
	s.finish(x, m)
}

// refuse answers with a code and no records.
func (s *Server) refuse(x *exchange, rcode int, why string) {
	x.rec.Result, x.rec.Err = "refused", errors.New("dns: "+why)
	s.finish(x, x.response(rcode))
}

// response returns a response without records. What a client says in EDNS it
// gets back: what we take, and its DO bit.
func (x *exchange) response(rcode int) *dns.Msg {
	m := new(dns.Msg).SetReply(x.msg)
	m.RecursionAvailable, m.Compress = true, true
	if opt := x.msg.IsEdns0(); opt != nil {
		m.SetEdns0(ednsSize, opt.Do())
	}
	m.Rcode = rcode
	return m
}

// finish makes the reply of m, cut to what the client takes, and reports.
func (s *Server) finish(x *exchange, m *dns.Msg) {
	m.Truncate(x.limit)
	reply, err := m.Pack()
	if err != nil {
		// A name of the configuration's that is none in DNS, such as one with a
		// label of 64 bytes.
		x.rec.Result, x.rec.Err = "failed", err
		reply = bare(x.header(), dns.RcodeServerFailure)
	}
	x.reply = reply
	s.options.Report(&x.rec)
}

// header returns the first bytes of the query, as far as bare reads them.
func (x *exchange) header() []byte {
	h := binary.BigEndian.AppendUint16(make([]byte, 0, 4), x.msg.Id)
	if x.msg.RecursionDesired {
		return append(h, 1, 0)
	}
	return append(h, 0, 0)
}

// overloaded answers what there is no room to forward.
func (s *Server) overloaded(x *exchange) []byte {
	x.forward = false
	s.refuse(x, dns.RcodeServerFailure, "too many questions are being forwarded")
	return x.reply
}

// forward asks upstream in the client's words, and returns what is to be said to
// the client.
func (s *Server) forward(ctx context.Context, x *exchange) []byte {
	start := time.Now()
	reply, err := s.upstream.exchange(ctx, s.servers(x), x)
	x.rec.Forwarded, x.rec.Upstream = true, time.Since(start)
	if err != nil {
		x.rec.Result, x.rec.Err = "forwarding failed", err
		s.finish(x, x.response(dns.RcodeServerFailure))
		return x.reply
	}
	x.rec.Result, x.rec.Answers = "forwarded", int(binary.BigEndian.Uint16(reply[6:]))
	if len(reply) > x.limit {
		reply = shorten(reply, x)
	}
	s.options.Report(&x.rec)
	return reply
}

// servers returns whom to ask what the mesh does not know: whom the client meant to
// ask, if that is known. It asks the others that it has itself.
func (s *Server) servers(x *exchange) []netip.AddrPort {
	if s.options.Asked == nil {
		return s.options.Upstream
	}
	server, err := s.options.Asked(x.network(), x.from, x.at)
	switch a := server.Addr(); {
	case err != nil || !a.IsValid() || server == x.at: // it asked us
		return s.options.Upstream
	case a.Is6() && a.IsLinkLocalUnicast() && a.Zone() == "": // through which interface is not known
		return s.options.Upstream
	}
	return []netip.AddrPort{server}
}

// shorten cuts an answer that an upstream server made longer than the client
// said that it takes. One that cannot be read loses all of its records.
func shorten(reply []byte, x *exchange) []byte {
	m := new(dns.Msg)
	if m.Unpack(reply) == nil {
		m.Compress = true
		m.Truncate(x.limit)
		if out, err := m.Pack(); err == nil && len(out) <= x.limit {
			return out
		}
	}
	m = x.response(dns.RcodeSuccess)
	m.Truncated = true
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

// sameQuestion reports whether an answer is to a question: servers repeat it, in
// the client's spelling.
func sameQuestion(reply []byte, q dns.Question) bool {
	if binary.BigEndian.Uint16(reply[4:]) != 1 {
		return false
	}
	name, off, err := dns.UnpackDomainName(reply, headerSize)
	return err == nil && off+4 <= len(reply) && strings.EqualFold(name, q.Name) &&
		binary.BigEndian.Uint16(reply[off:]) == q.Qtype && binary.BigEndian.Uint16(reply[off+2:]) == q.Qclass
}
