package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
)

const (
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

	frameHeader   = 9    // octets
	typeHeaders   = 0x1  // RFC 9113, section 6.2
	flagPadded    = 0x8  // one octet before the field block
	flagPriority  = 0x20 // five
	connectMethod = "\x02\x07CONNECT"
)

// requests are how the cases begin their requests, by HPACK's static table:
// :method GET or POST, :scheme http, :path /.
var requests = [][]byte{[]byte("\x82\x86\x84"), []byte("\x83\x86\x84")}

// A translator passes TCP connections on to the HBONE listener with each GET
// and POST made a CONNECT to the same authority: h2spec knows no other methods,
// and a listener that takes nothing but CONNECT has to see some.
//
// It touches nothing else: frames are not checked, and neither encoding of the
// fields is one that HPACK's dynamic table remembers.
type translator struct {
	net.Listener
	waypoint string
	tls      *tls.Config
}

func (t *translator) serve() {
	for {
		nc, err := t.Accept()
		if err != nil {
			return // closed
		}
		go t.carry(nc.(*net.TCPConn))
	}
}

// carry ends when the waypoint has closed the connection, or the case has.
func (t *translator) carry(nc *net.TCPConn) {
	defer nc.Close()
	tc, err := tls.Dial("tcp", t.waypoint, t.tls)
	if err != nil {
		_ = nc.SetLinger(0) // the case must not take it for an orderly end
		return
	}
	defer tc.Close()
	go func() {
		_ = translate(tc, bufio.NewReader(nc)) // the case went away, or the waypoint did
		_ = tc.CloseWrite()
	}()
	if _, err := io.Copy(nc, tc); err != nil {
		_ = nc.SetLinger(0)
	}
}

// translate copies a client's connection from r to w.
func translate(w io.Writer, r *bufio.Reader) error {
	if start, err := r.Peek(len(preface)); err != nil || string(start) != preface {
		_, err = io.Copy(w, r)
		return err
	}
	if _, err := io.CopyN(w, r, int64(len(preface))); err != nil {
		return err
	}
	for {
		head := make([]byte, frameHeader)
		if _, err := io.ReadFull(r, head); err != nil {
			return err
		}
		length := int64(binary.BigEndian.Uint32(head) >> 8)
		if head[3] == typeHeaders {
			payload := make([]byte, length)
			if _, err := io.ReadFull(r, payload); err != nil {
				return err
			}
			payload = asConnect(head[4], payload)
			head[0], head[1], head[2] = byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload))
			if _, err := w.Write(append(head, payload...)); err != nil {
				return err
			}
			continue
		}
		if _, err := w.Write(head); err != nil {
			return err
		}
		if _, err := io.CopyN(w, r, length); err != nil {
			return err
		}
	}
}

// asConnect returns the payload of a HEADERS frame, with its method, :scheme and
// :path replaced.
func asConnect(flags byte, payload []byte) []byte {
	skip := 0
	if flags&flagPadded != 0 {
		skip++
	}
	if flags&flagPriority != 0 {
		skip += 5
	}
	if len(payload) < skip {
		return payload
	}
	for _, request := range requests {
		if rest, ok := bytes.CutPrefix(payload[skip:], request); ok {
			return bytes.Join([][]byte{payload[:skip], []byte(connectMethod), rest}, nil)
		}
	}
	return payload
}
