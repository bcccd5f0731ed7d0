package h2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// FuzzReceive feeds a Conn with frames of all kinds, sane and not. Whatever they
// are: no panic, output that can be parsed and is bounded, no buffer kept, and
// the same events however the input is cut.
//
// The input is a list of frames in short form: type, flags, stream, length,
// payload; a type from 0xf0 up instead lets time pass or the output be read.
func FuzzReceive(f *testing.F) {
	f.Add(false, []byte{}, uint16(1))
	f.Add(true, []byte{1, 5, 1, 3, 0x82, 0x86, 0x84, 0xf0}, uint16(1))
	f.Add(true, []byte{1, 4, 1, 3, 0x83, 0x86, 0x84, 0, 1, 1, 5, 1, 2, 3, 4, 5, 3, 0, 1, 4, 0, 0, 0, 8}, uint16(3))
	f.Add(true, []byte{1, 0, 1, 2, 0x82, 0x86, 9, 4, 1, 1, 0x84, 0xf1, 6, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8}, uint16(7))
	f.Add(false, []byte{1, 4, 1, 1, 0x88, 0, 8, 1, 4, 2, 9, 0, 0, 8, 0, 1, 4, 0, 0, 0, 9, 0xf0, 7, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0}, uint16(2))
	f.Add(true, []byte{4, 0, 0, 6, 0, 4, 0, 0, 0, 9, 1, 4, 1, 3, 0x82, 0x86, 0x84, 8, 0, 1, 4, 0, 0, 1, 0, 0xf0, 2, 0, 1, 5, 0, 0, 0, 3, 1}, uint16(5))
	for _, sc := range allScripts(f) {
		for _, b := range scriptWire(f, sc) {
			f.Add(sc.role == Server, b, uint16(11))
		}
	}
	f.Fuzz(func(t *testing.T, server bool, data []byte, cut uint16) {
		role := Client
		if server {
			role = Server
		}
		before := bufs.InUse()
		whole := fuzzRun(t, role, data, 1<<30)
		pieces := fuzzRun(t, role, data, 1+int(cut%64))
		if whole != pieces {
			t.Errorf("whole:\n%s\nin pieces of %d:\n%s", whole, 1+cut%64, pieces)
		}
		if n := bufs.InUse() - before; n != 0 {
			t.Errorf("%d bytes of buffers are kept", n)
		}
	})
}

func allScripts(tb testing.TB) (all []*script) {
	files, err := filepath.Glob("testdata/scripts/*.txt")
	if err != nil {
		tb.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, parseScripts(string(text))...)
	}
	return all
}

// scriptWire returns what a script's peer sends in the fuzz target's short form.
func scriptWire(tb testing.TB, sc *script) (all [][]byte) {
	var short []byte
	p := newPlayer(nil, &script{role: sc.role, raw: true}, nil)
	for _, b := range sc.blocks {
		for _, line := range b.do {
			if !strings.HasPrefix(line, "> ") || strings.Contains(line, "> raw") || strings.Contains(line, "preface") {
				continue
			}
			p.do(line)
		}
		for w := p.wire.Bytes(); len(w) >= headerLen; {
			h := parseHeader(w)
			n := min(h.length, 255)
			short = append(short, h.typ, h.flags, byte(h.id), byte(n))
			short = append(short, w[headerLen:headerLen+n]...)
			w = w[headerLen+h.length:]
		}
		p.wire.Reset()
		short = append(short, 0xf0)
	}
	return append(all, short)
}

// fuzzRun plays data to a new Conn in pieces of at most n bytes and returns what
// its user saw.
func fuzzRun(t *testing.T, role Role, data []byte, n int) string {
	const maxStreams = 5
	u := &fuzzUser{t: t}
	o := Options{MaxStreams: maxStreams, MaxHeaderList: 1 << 10, StreamWindow: 1 << 10, MaxReplies: 100, MaxIdleFrames: 1000, MaxResets: 50}
	c := New(role, o, u, epoch)
	now := epoch
	var wire []byte
	if role == Server {
		wire = append(wire, clientPreface...)
	} else {
		for range 3 {
			if s, err := c.Open(toTunnel, false); err == nil {
				s.Write(make([]byte, 10))
			}
		}
	}
	wire = append(wire, 0, 0, 0, typeSettings, 0, 0, 0, 0, 0)
	var out []byte
	read := func() {
		for b := c.Output(); b != nil; b = c.Output() {
			out = append(out, b...)
		}
	}
	for len(data) >= 4 && u.failed == nil {
		if data[0] < 0xf0 {
			k := min(int(data[3]), len(data)-4)
			wire = append(wire, 0, byte(k>>8), byte(k), data[0], data[1])
			wire = binary.BigEndian.AppendUint32(wire, uint32(data[2]))
			wire = append(wire, data[4:4+k]...)
			data = data[4+k:]
			continue
		}
		u.feed(c, wire, n)
		wire = wire[:0]
		read()
		if data[0]&1 == 1 {
			now = now.Add(7e9)
			u.fail(c.Tick(now))
		}
		data = data[1:]
	}
	u.feed(c, wire, n)
	if len(c.streams) > maxStreams || len(c.carry) > 8<<10 || cap(c.block.fields) > 64 {
		t.Errorf("%d streams, %d bytes carried, %d fields", len(c.streams), len(c.carry), cap(c.block.fields))
	}
	if w := c.out.waiting(); w > clogged+100<<10 {
		t.Errorf("%d bytes of output", w)
	}
	read()
	checkOutput(t, role, out)
	c.Closed(nil)
	return u.seen.String()
}

// checkOutput parses what a Conn has put out.
func checkOutput(t *testing.T, role Role, out []byte) {
	if role == Client {
		out = out[len(clientPreface):]
	}
	fr := http2.NewFramer(nil, strings.NewReader(string(out)))
	for {
		_, err := fr.ReadFrame()
		if err != nil {
			if err.Error() != "EOF" {
				t.Errorf("our output: %v", err)
			}
			return
		}
	}
}

// A fuzzUser reacts to events in ways that depend on nothing but the order of
// them, and writes them down.
type fuzzUser struct {
	t      *testing.T
	seen   strings.Builder
	failed error
	in     map[*Stream]int
	last   *Stream // whose data was the last thing seen
	gone   map[*Stream]bool
}

func (u *fuzzUser) feed(c *Conn, wire []byte, n int) {
	for len(wire) > 0 && u.failed == nil {
		k := min(n, len(wire))
		u.fail(c.Receive(append([]byte{}, wire[:k]...)))
		wire = wire[k:]
	}
}

func (u *fuzzUser) fail(err error) {
	if err != nil && u.failed == nil {
		u.failed = err
		u.note(nil, "failed %v", err)
	}
}

func (u *fuzzUser) note(s *Stream, format string, args ...any) {
	if s != nil {
		if u.gone[s] {
			u.t.Errorf("an event after the stream's last: %s", fmt.Sprintf(format, args...))
		}
	}
	u.last = nil
	fmt.Fprintf(&u.seen, format+"\n", args...)
}

func (u *fuzzUser) Headers(s *Stream, f l7.Fields, end bool) {
	u.note(s, "headers %d %v %t", s.ID(), f, end)
	s.Credit(u.in[s])
	delete(u.in, s)
	switch {
	case s.Conn().role == Client:
	case s.ID()%4 == 1:
		s.Headers(ok, false)
		s.Write(make([]byte, 1000*int(s.ID())))
		s.CloseWrite()
	default:
		s.Headers(ok, end)
	}
}

func (u *fuzzUser) Data(s *Stream, p []byte, end bool) {
	if u.in == nil {
		u.in = map[*Stream]int{}
	}
	if u.last != s {
		u.note(s, "data %d", s.ID())
	}
	u.last = s
	fmt.Fprintf(&u.seen, "%x", p)
	if end {
		u.note(s, " end")
	}
	u.in[s] += len(p)
}

func (u *fuzzUser) Sent(s *Stream, n int) { u.note(s, "sent %d %d", s.ID(), n) }

func (u *fuzzUser) Reset(s *Stream, err error) {
	u.note(s, "reset %d %v", s.ID(), err)
	if u.gone == nil {
		u.gone = map[*Stream]bool{}
	}
	u.gone[s] = true
	s.Write([]byte("late"))
	s.Credit(1)
}

func (u *fuzzUser) Changed() {}

func (u *fuzzUser) Closed(err error) {
	if !errors.Is(err, ErrClosed) && u.failed == nil {
		u.t.Errorf("closed: %v", err)
	}
	u.note(nil, "closed")
}
