package h2

import (
	"errors"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// do plays one line: a call by the user, after everything the peer has sent, or
// a frame from the peer.
func (p *player) do(line string) {
	words := splitWords(line)
	if words[0] == "*" {
		p.feed()
		p.call(words[1:])
		return
	}
	times := 1
	if w := words[1]; strings.HasSuffix(w, "x") {
		times = int(number(strings.TrimSuffix(w, "x")))
		words = words[1:]
	}
	for range times {
		p.send(words[1], words[2:])
	}
}

// splitWords splits at spaces, except those within quotes.
func splitWords(line string) (words []string) {
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimLeft(line, " ") {
		quoted, i := false, 0
		for i = 0; i < len(line) && (quoted || line[i] != ' '); i++ {
			if line[i] == '"' {
				quoted = !quoted
			}
		}
		words = append(words, line[:i])
		line = line[i:]
	}
	return words
}

// option takes word out of words, if it is there: "end", or "pad=" for "pad=3".
func option(words *[]string, word string) (value string, ok bool) {
	for i, w := range *words {
		if w == word || strings.HasSuffix(word, "=") && strings.HasPrefix(w, word) {
			*words = slices.Delete(slices.Clone(*words), i, i+1)
			return strings.TrimPrefix(w, word), true
		}
	}
	return "", false
}

// call does what the user does.
func (p *player) call(words []string) {
	arg := words[1:]
	var s *Stream
	if len(arg) > 0 && words[0] != "open" && words[0] != "tick" {
		if s = p.streams[number(arg[0])]; s == nil {
			p.t.Fatalf("%v: no such stream", words)
		}
		arg = arg[1:]
	}
	_, end := option(&arg, "end")
	switch words[0] {
	case "open":
		s, err := p.c.Open(parseFields(arg), end)
		if err != nil {
			p.note("! %v", err)
			break
		}
		p.streams[s.ID()] = s
	case "headers":
		s.Headers(parseFields(arg), end)
	case "write":
		if n := s.Write(unquote(arg[0])); n > 0 {
			p.note("! queued %d", n)
		}
	case "close":
		s.CloseWrite()
	case "credit":
		s.Credit(int(number(arg[0])))
	case "reset":
		if len(arg) == 0 {
			s.Reset(nil)
		} else {
			s.Reset(&StreamError{Code: code(arg[0])})
		}
	case "drain":
		p.c.Drain()
	case "drained":
		p.note("! drained %t", p.c.Drained())
	case "available":
		p.note("! available %d", p.c.Available())
	case "active":
		p.note("! active %d", p.c.Active())
	case "tick":
		d, err := time.ParseDuration(arg[0])
		if err != nil {
			p.t.Fatal(err)
		}
		p.now = p.now.Add(d)
		p.fail(p.c.Tick(p.now))
	case "eof":
		p.fail(p.c.EOF())
	case "closed":
		p.c.Closed(errors.New("the wire was cut"))
	default:
		p.t.Fatalf("call %v", words)
	}
}

// send writes one frame of the peer's.
func (p *player) send(typ string, arg []string) {
	_, end := option(&arg, "end")
	_, open := option(&arg, "open")
	_, ack := option(&arg, "ack")
	pad, padded := option(&arg, "pad=")
	dep, dependent := option(&arg, "dep=")
	id := uint32(0)
	if len(arg) > 0 && typ != "SETTINGS" && typ != "PING" && typ != "GOAWAY" && typ != "raw" && typ != "FRAME" {
		id, arg = number(arg[0]), arg[1:]
	}
	var padding []byte
	if padded {
		padding = make([]byte, number(pad))
	}
	f := p.framer
	var err error
	switch typ {
	case "preface":
		_, err = p.wire.WriteString(clientPreface)
	case "raw":
		_, err = p.wire.Write(fromHex(strings.Join(arg, "")))
	case "FRAME": // type flags stream hex
		var b []byte
		if len(arg) > 3 {
			if b = unquoteOrHex(arg[3]); b == nil {
				p.t.Fatal(arg)
			}
		}
		err = f.WriteRawFrame(http2.FrameType(number(arg[0])), http2.Flags(number(arg[1])), number(arg[2]), b)
	case "SETTINGS":
		if ack {
			err = f.WriteSettingsAck()
			break
		}
		var all []http2.Setting
		for _, s := range arg {
			k, v, _ := strings.Cut(s, "=")
			all = append(all, http2.Setting{ID: http2.SettingID(number(k)), Val: number(v)})
		}
		err = f.WriteSettings(all...)
	case "HEADERS":
		h := http2.HeadersFrameParam{StreamID: id, EndStream: end, EndHeaders: !open, PadLength: uint8(len(padding))}
		if dependent {
			h.Priority = http2.PriorityParam{StreamDep: number(dep), Weight: 15}
		}
		h.BlockFragment = p.encode(arg)
		err = f.WriteHeaders(h)
	case "CONTINUATION":
		err = f.WriteContinuation(id, !open, p.encode(arg))
	case "DATA":
		var b []byte
		if len(arg) > 0 {
			b = unquote(arg[0])
		}
		if err = f.WriteDataPadded(id, end, b, padding); padded && err != nil {
			p.t.Fatal(err)
		}
	case "RST_STREAM":
		err = f.WriteRSTStream(id, http2.ErrCode(code(arg[0])))
	case "PING":
		var b [8]byte
		copy(b[:], arg[0])
		err = f.WritePing(ack, b)
	case "GOAWAY":
		err = f.WriteGoAway(number(arg[0]), http2.ErrCode(code(arg[1])), nil)
	case "WINDOW_UPDATE":
		err = f.WriteWindowUpdate(id, number(arg[0]))
	case "PRIORITY":
		err = f.WritePriority(id, http2.PriorityParam{StreamDep: number(dep)})
	default:
		p.t.Fatalf("send %s", typ)
	}
	if err != nil {
		p.t.Fatal(typ, arg, err)
	}
}

func unquoteOrHex(s string) []byte {
	if s[0] == '"' {
		return unquote(s)
	}
	return fromHex(s)
}

// encode compresses fields; "hex=…" is a fragment as it stands.
func (p *player) encode(words []string) []byte {
	if len(words) == 1 && strings.HasPrefix(words[0], "hex=") {
		return fromHex(words[0][4:])
	}
	p.encBuf.Reset()
	for _, f := range parseFields(words) {
		if err := p.enc.WriteField(hpack.HeaderField{Name: f.Name, Value: f.Value}); err != nil {
			p.t.Fatal(err)
		}
	}
	return slices.Clone(p.encBuf.Bytes())
}
