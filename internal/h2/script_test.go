package h2

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/waystone-mesh/waystone/internal/l7"
)

// TestScripts runs testdata/scripts/*.txt. A file holds cases; a case is a
// conversation with a Conn, one action or expectation per line:
//
//	== server name of the case      its role
//	option MaxStreams 2             one of the numbers in Options, "10s" for a time
//	raw                             no greeting: the case sends and expects it all
//	> DATA 1 end "text"             the peer sends a frame
//	* write 1 "text"                the user calls a method
//	! data 1 end "text"             the Handler is told
//	< DATA 1 end "text"             a frame is in the output
//	= PROTOCOL_ERROR                Receive, EOF or Tick has failed with that code
//
// "text"*9 is that text nine times. Lines are read in blocks: what is done, and
// then everything that came of it: each ! in order, each < in order. Pieces of
// the same stream's data are put together first.
//
// Every case is run whole, with what the peer sends cut once at every offset,
// and byte by byte, and has to come out the same.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/scripts/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			for _, sc := range parseScripts(string(text)) {
				t.Run(sc.name, sc.test)
			}
		})
	}
}

// A script is one case.
type script struct {
	name    string
	role    Role
	options Options
	raw     bool
	blocks  []scriptBlock
}

type scriptBlock struct {
	line       int
	do, expect []string
}

func parseScripts(text string) (all []*script) {
	var sc *script
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "==":
			role, name, _ := strings.Cut(rest, " ")
			sc = &script{name: name, options: Options{ConnWindow: initialWindow, Keepalive: -1, SlowReader: -1}}
			if role == "server" {
				sc.role = Server
			}
			all = append(all, sc)
		case "option":
			sc.option(rest)
		case "raw":
			sc.raw = true
		case ">", "*":
			if n := len(sc.blocks); n == 0 || len(sc.blocks[n-1].expect) > 0 {
				sc.blocks = append(sc.blocks, scriptBlock{line: i + 1})
			}
			b := &sc.blocks[len(sc.blocks)-1]
			b.do = append(b.do, line)
		case "!", "<", "=":
			b := &sc.blocks[len(sc.blocks)-1]
			b.expect = append(b.expect, line)
		default:
			panic(fmt.Sprintf("line %d: %s", i+1, line))
		}
	}
	return all
}

func (sc *script) option(text string) {
	name, value, _ := strings.Cut(text, " ")
	n, _ := strconv.Atoi(value)
	d, _ := time.ParseDuration(value)
	o := &sc.options
	switch name {
	case "StreamWindow":
		o.StreamWindow = uint32(n)
	case "ConnWindow":
		o.ConnWindow = uint32(n)
	case "MaxFrame":
		o.MaxFrame = uint32(n)
	case "MaxStreams":
		o.MaxStreams = uint32(n)
	case "MaxHeaderList":
		o.MaxHeaderList = uint32(n)
	case "MaxResets":
		o.MaxResets = n
	case "MaxReplies":
		o.MaxReplies = n
	case "MaxIdleFrames":
		o.MaxIdleFrames = n
	case "Keepalive":
		o.Keepalive = d
	case "KeepaliveTimeout":
		o.KeepaliveTimeout = d
	case "MaxAge":
		o.MaxAge = d
	case "SlowReader":
		o.SlowReader = d
	default:
		panic("option " + text)
	}
}

func (sc *script) test(t *testing.T) {
	total := sc.run(t, nil)
	if t.Failed() {
		return
	}
	step := 1 // a case with more than a few frames of content is cut at some offsets only
	if total > 4<<10 {
		step = total / 200
	}
	for at := 1; at < total && !t.Failed(); at += step {
		sc.run(t, func(sent int) int { return at - sent })
	}
	sc.run(t, func(int) int { return 1 })
	if t.Failed() {
		t.Log("only when the input is cut")
	}
}

// run plays the script. cut says where to cut what the peer sends, by how much
// of it has been sent before; nil: nowhere.
func (sc *script) run(t *testing.T, cut func(sent int) int) (sent int) {
	t.Helper()
	p := newPlayer(t, sc, cut)
	for _, b := range sc.blocks {
		for _, line := range b.do {
			p.do(line)
		}
		p.feed()
		got := strings.Join(p.happened(), "\n")
		if want := strings.Join(b.expect, "\n"); got != want {
			t.Errorf("line %d: got\n%s\nwant\n%s", b.line, got, want)
			return p.sent
		}
	}
	if got := p.happened(); len(got) > 0 {
		t.Errorf("at the end: got\n%s", strings.Join(got, "\n"))
	}
	p.c.Closed(nil)
	return p.sent
}

// A player is a Conn with its user on one side and its peer on the other.
type player struct {
	t   *testing.T
	c   *Conn
	now time.Time

	// The user.
	streams map[uint32]*Stream
	events  []string
	datas   map[int][]byte // content of the data events, by place in events
	sents   map[int]int
	failed  string

	// The peer.
	wire   bytes.Buffer // written and not fed yet
	framer *http2.Framer
	enc    *hpack.Encoder
	encBuf bytes.Buffer
	dec    *hpack.Decoder
	frames bytes.Buffer // Output
	cut    func(int) int
	sent   int
}

func newPlayer(t *testing.T, sc *script, cut func(int) int) *player {
	p := &player{
		t: t, now: time.Unix(1e9, 0), cut: cut,
		streams: map[uint32]*Stream{}, datas: map[int][]byte{}, sents: map[int]int{},
	}
	p.framer = http2.NewFramer(&p.wire, &p.frames)
	p.framer.AllowIllegalWrites, p.framer.AllowIllegalReads = true, true
	p.enc = hpack.NewEncoder(&p.encBuf)
	p.dec = hpack.NewDecoder(4096, nil)
	p.c = New(sc.role, sc.options, p, p.now)
	if sc.raw {
		return p
	}
	if sc.role == Server {
		p.do("> preface")
	}
	p.do("> SETTINGS")
	p.do("> SETTINGS ack")
	p.feed()
	p.happened()
	return p
}

// What the Handler is told. Changed is left out: how often it is called depends
// on how the input is cut.

func (p *player) Headers(s *Stream, f l7.Fields, end bool) {
	p.streams[s.ID()] = s
	p.note("! headers %d%s%s", s.ID(), ifEnd(end), spell(f))
}

func (p *player) Data(s *Stream, b []byte, end bool) {
	if n := len(p.events) - 1; n >= 0 && p.datas[n] != nil && p.events[n] == fmt.Sprintf("! data %d", s.ID()) {
		p.datas[n] = append(p.datas[n], b...)
		p.events[n] += ifEnd(end)
		return
	}
	p.datas[len(p.events)] = append([]byte{}, b...)
	p.note("! data %d%s", s.ID(), ifEnd(end))
}

func (p *player) Sent(s *Stream, n int) {
	if last := len(p.events) - 1; last >= 0 && p.sents[last] > 0 && p.events[last] == fmt.Sprintf("! sent %d", s.ID()) {
		p.sents[last] += n
		return
	}
	p.sents[len(p.events)] = n
	p.note("! sent %d", s.ID())
}

func (p *player) Reset(s *Stream, err error) {
	var e *StreamError
	switch {
	case !errors.As(err, &e):
		p.note("! reset %d closed", s.ID())
	case Refused(err):
		p.note("! reset %d refused", s.ID())
	case e.Remote:
		p.note("! reset %d %v by peer", s.ID(), e.Code)
	default:
		p.note("! reset %d %v", s.ID(), e.Code)
	}
}

func (p *player) Changed()     {}
func (p *player) Closed(error) { p.note("! closed") }

func (p *player) note(format string, args ...any) {
	p.events = append(p.events, fmt.Sprintf(format, args...))
}

// happened returns what has happened since it was last called: events, frames,
// and a failure.
func (p *player) happened() (all []string) {
	for {
		b := p.c.Output()
		if b == nil {
			break
		}
		if len(b) > flush {
			p.t.Errorf("Output returned %d bytes", len(b))
		}
		p.frames.Write(b)
	}
	for i, e := range p.events {
		if b, ok := p.datas[i]; ok {
			e += " " + quote(b)
		}
		if n, ok := p.sents[i]; ok {
			e += fmt.Sprintf(" %d", n)
		}
		all = append(all, e)
	}
	p.events = nil
	clear(p.datas)
	clear(p.sents)
	all = append(all, p.readFrames()...)
	if p.failed != "" {
		all = append(all, "= "+p.failed)
		p.failed = ""
	}
	return all
}

func (p *player) readFrames() (all []string) {
	if b := p.frames.Bytes(); strings.HasPrefix(string(b), clientPreface) {
		p.frames.Next(len(clientPreface))
		all = append(all, "< preface")
	}
	for p.frames.Len() > 0 {
		f, err := p.framer.ReadFrame()
		if err != nil {
			p.t.Fatalf("our output: %v", err)
		}
		all = append(all, "< "+p.spellFrame(f))
	}
	return all
}

func (p *player) spellFrame(f http2.Frame) string {
	h := f.Header()
	switch f := f.(type) {
	case *http2.HeadersFrame:
		block := slices.Clone(f.HeaderBlockFragment())
		pieces := ""
		for ended := f.HeadersEnded(); !ended; {
			next, err := p.framer.ReadFrame()
			more, ok := next.(*http2.ContinuationFrame)
			if err != nil || !ok {
				p.t.Fatalf("after HEADERS: %v %v", next, err)
			}
			block = append(block, more.HeaderBlockFragment()...)
			pieces, ended = pieces+"+", more.HeadersEnded()
		}
		got, err := p.dec.DecodeFull(block)
		if err != nil {
			p.t.Fatalf("our header block: %v", err)
		}
		var fields l7.Fields
		for _, f := range got {
			fields = append(fields, l7.Field{Name: f.Name, Value: f.Value})
		}
		return fmt.Sprintf("HEADERS%s %d%s%s", pieces, h.StreamID, ifEnd(f.StreamEnded()), spell(fields))
	case *http2.DataFrame:
		return fmt.Sprintf("DATA %d%s %s", h.StreamID, ifEnd(f.StreamEnded()), quote(f.Data()))
	case *http2.RSTStreamFrame:
		return fmt.Sprintf("RST_STREAM %d %v", h.StreamID, ErrCode(f.ErrCode))
	case *http2.SettingsFrame:
		s := "SETTINGS"
		if f.IsAck() {
			s += " ack"
		}
		_ = f.ForeachSetting(func(v http2.Setting) error {
			s += fmt.Sprintf(" %d=%d", v.ID, v.Val)
			return nil
		})
		return s
	case *http2.PingFrame:
		if f.IsAck() {
			return "PING ack " + string(bytes.TrimRight(f.Data[:], "\x00"))
		}
		return "PING " + string(bytes.TrimRight(f.Data[:], "\x00"))
	case *http2.GoAwayFrame:
		return fmt.Sprintf("GOAWAY %d %v", f.LastStreamID, ErrCode(f.ErrCode))
	case *http2.WindowUpdateFrame:
		return fmt.Sprintf("WINDOW_UPDATE %d %d", h.StreamID, f.Increment)
	}
	return h.String()
}

func ifEnd(end bool) string {
	if end {
		return " end"
	}
	return ""
}

func spell(fields l7.Fields) (s string) {
	for _, f := range fields {
		v := f.Value
		if len(v) > 40 {
			v = quote([]byte(v))
		}
		s += " " + f.Name + "=" + v
	}
	return s
}

// quote spells b as scripts do: a run of one byte as "x"*9.
func quote(b []byte) string {
	if len(b) > 8 && bytes.Count(b, b[:1]) == len(b) {
		return fmt.Sprintf("%q*%d", b[:1], len(b))
	}
	return strconv.Quote(string(b))
}

func unquote(s string) []byte {
	s, times, _ := strings.Cut(s, "*")
	text, err := strconv.Unquote(s)
	if err != nil {
		panic(s)
	}
	n, _ := strconv.Atoi(times)
	return bytes.Repeat([]byte(text), max(n, 1))
}

func parseFields(words []string) (f l7.Fields) {
	for _, w := range words {
		at := strings.Index(w[1:], "=") + 1
		v := w[at+1:]
		if strings.HasPrefix(v, `"`) {
			v = string(unquote(v))
		}
		f = append(f, l7.Field{Name: w[:at], Value: v})
	}
	return f
}

// feed gives what the peer has sent to the Conn.
func (p *player) feed() {
	b := p.wire.Bytes()
	for len(b) > 0 {
		n := len(b)
		if p.cut != nil {
			if at := p.cut(p.sent); at > 0 && at < n {
				n = at
			}
		}
		// A copy that is spoilt afterwards: nothing may be kept.
		piece := slices.Clone(b[:n])
		p.fail(p.c.Receive(piece))
		for i := range piece {
			piece[i] = 0xdb
		}
		p.sent += n
		b = b[n:]
	}
	p.wire.Reset()
}

func (p *player) fail(err error) {
	var e *ConnError
	switch {
	case err == nil:
	case errors.As(err, &e):
		p.failed = e.Code.String()
	default:
		p.failed = err.Error()
	}
}

func number(s string) uint32 {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		panic(err)
	}
	return uint32(n)
}

func code(s string) ErrCode { return ErrCode(max(0, slices.Index(codeNames[:], s))) }

func fromHex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}
