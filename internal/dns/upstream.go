package dns

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// An upstream is how servers are asked what the mesh does not know.
type upstream struct {
	try, patience time.Duration
	sockets       Sockets
}

// rounds is how often each server is tried: a packet may be lost.
const rounds = 2

// exchange asks the servers one after the other, over the client's protocol, and
// returns the first answer as it came, under the client's ID. An answer that
// tells of a server's own trouble counts only when no other has a better one.
//
// Each question has a socket and an ID of its own, which nobody else can guess
// (RFC 5452).
func (u *upstream) exchange(ctx context.Context, servers []netip.AddrPort, x *exchange) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, u.patience)
	defer cancel()
	var troubled []byte
	var errs []error
	for range rounds {
		for _, server := range servers {
			reply, err := u.ask(ctx, server, x)
			if err != nil {
				errs = append(errs, fmt.Errorf("dns: ask %s: %w", server, err))
				if ctx.Err() != nil {
					break
				}
				continue
			}
			copy(reply, x.query[:2])
			switch reply[3] & 0x0f {
			case dns.RcodeServerFailure, dns.RcodeRefused, dns.RcodeNotImplemented:
				troubled = reply
				continue
			}
			return reply, nil
		}
		if troubled != nil || ctx.Err() != nil {
			break
		}
	}
	if troubled != nil {
		return troubled, nil
	}
	return nil, errors.Join(errs...)
}

// ask asks one server.
func (u *upstream) ask(ctx context.Context, server netip.AddrPort, x *exchange) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, u.try)
	defer cancel()
	dial := u.sockets.DialPacket
	if x.tcp {
		dial = u.sockets.Dial
	}
	c, err := dial(ctx, server)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if end, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(end); err != nil {
			return nil, err
		}
	}
	ours := append([]byte(nil), x.query...)
	if _, err := rand.Read(ours[:2]); err != nil {
		return nil, err
	}
	if x.tcp {
		return overTCP(c, ours, x.msg.Question[0])
	}
	return overUDP(c, ours, x.msg.Question[0])
}

var errOther = errors.New("the answer is to another question")

func overTCP(c net.Conn, query []byte, q dns.Question) ([]byte, error) {
	if err := writeMessage(c, query); err != nil {
		return nil, err
	}
	reply, err := readMessage(c, nil)
	if err != nil {
		return nil, err
	}
	if !answers(reply, query, q) {
		return nil, errOther
	}
	return reply, nil
}

// overUDP passes over what is no answer to the question: it is late, or forged.
func overUDP(c net.Conn, query []byte, q dns.Question) ([]byte, error) {
	if _, err := c.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, maxPacket+1) // one that is longer shows that it is
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		if answers(buf[:n], query, q) {
			return buf[:n], nil
		}
	}
}

// answers reports whether reply is an answer to query. One that tells of trouble
// may leave the question out.
func answers(reply, query []byte, q dns.Question) bool {
	if len(reply) < headerSize || reply[0] != query[0] || reply[1] != query[1] || reply[2]&0x80 == 0 {
		return false
	}
	if binary.BigEndian.Uint16(reply[4:]) == 0 {
		return len(reply) == headerSize && reply[3]&0x0f != dns.RcodeSuccess && reply[3]&0x0f != dns.RcodeNameError
	}
	return sameQuestion(reply, q)
}

// Upstream returns the servers that a resolv.conf names.
func Upstream(path string) ([]netip.AddrPort, error) {
	c, err := dns.ClientConfigFromFile(path)
	if err != nil {
		return nil, fmt.Errorf("dns: read %s: %w", path, err)
	}
	var out []netip.AddrPort
	for _, server := range c.Servers {
		ip, err := netip.ParseAddr(server)
		if err != nil {
			return nil, fmt.Errorf("dns: %s: nameserver %q is not an address", path, server)
		}
		out = append(out, netip.AddrPortFrom(ip, 53))
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("dns: %s: names no nameserver", path)
	}
	return out, nil
}
