package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"
)

// maxQuery is the longest question that is read: 4 KiB, many times what any has.
const maxQuery = 4096

// servePackets is the goroutine that reads a UDP socket. What the mesh knows it
// answers itself; what is forwarded waits on a goroutine of its own, of which
// there are few.
func (s *Server) servePackets(c *net.UDPConn) {
	at := c.LocalAddr().(*net.UDPAddr).AddrPort()
	buf := make([]byte, maxQuery+1)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			if s.pause("questions cannot be read", err) {
				continue
			}
			return
		}
		x := s.ask(buf[:n], way{from, at, false})
		if !x.forward {
			s.send(c, from, x.reply)
			continue
		}
		if !s.forwarding.enter(x.client()) {
			s.send(c, from, s.overloaded(x))
			continue
		}
		x.query = append([]byte(nil), buf[:n]...)
		s.serving.Go(func() {
			defer s.forwarding.leave(x.client())
			s.send(c, from, s.forward(s.ctx, x))
		})
	}
}

// send writes an answer, if there is one. Who cannot be reached asks again.
func (s *Server) send(c *net.UDPConn, to netip.AddrPort, reply []byte) {
	if len(reply) == 0 {
		return
	}
	if _, err := c.WriteToUDPAddrPort(reply, to); err != nil && s.ctx.Err() == nil {
		s.options.Log.Debug("dns: an answer was not sent", "to", to.String(), "error", err)
	}
}

// serveConnections is the goroutine that accepts TCP connections. One that is too
// many is closed.
func (s *Server) serveConnections(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			if s.pause("connections cannot be accepted", err) {
				continue
			}
			return
		}
		w := way{c.RemoteAddr().(*net.TCPAddr).AddrPort(), c.LocalAddr().(*net.TCPAddr).AddrPort(), true}
		if !s.connections.enter(w.client()) {
			c.Close()
			continue
		}
		s.serving.Go(func() {
			defer s.connections.leave(w.client())
			defer c.Close()
			defer context.AfterFunc(s.ctx, func() { c.Close() })()
			s.serveConnection(c, w)
		})
	}
}

// serveConnection answers the questions of a connection, one after the other
// (RFC 7766, section 6.2.1.1, leaves the order to the server).
func (s *Server) serveConnection(c net.Conn, w way) {
	var buf [maxQuery]byte
	for {
		if c.SetDeadline(time.Now().Add(s.options.Idle)) != nil {
			return
		}
		query, err := readMessage(c, buf[:])
		if err != nil {
			return
		}
		x := s.ask(query, w)
		if x.forward {
			if s.forwarding.enter(w.client()) {
				x.query = query
				x.reply = s.forward(s.ctx, x)
				s.forwarding.leave(w.client())
			} else {
				x.reply = s.overloaded(x)
			}
		}
		if len(x.reply) == 0 || c.SetDeadline(time.Now().Add(s.options.Idle)) != nil || writeMessage(c, x.reply) != nil {
			return
		}
	}
}

var errTooLong = errors.New("dns: message is too long")

// readMessage reads a message behind its length (RFC 1035, section 4.2.2) into
// buf, which must have room for it; nil makes room.
func readMessage(r io.Reader, buf []byte) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(length[:]))
	if buf == nil {
		buf = make([]byte, n)
	}
	if n > len(buf) {
		return nil, errTooLong
	}
	_, err := io.ReadFull(r, buf[:n])
	return buf[:n], err
}

// writeMessage writes a message behind its length, in one segment if it fits.
func writeMessage(w io.Writer, m []byte) error {
	if len(m) > 65535 {
		return errTooLong
	}
	_, err := w.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(m)), uint16(len(m))), m...))
	return err
}
