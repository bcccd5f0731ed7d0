package bench

import (
	"strconv"
	"strings"
	"time"

	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/hbone"
	"github.com/waystone-mesh/waystone/internal/inner"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/loop"
)

// A place is what one loop serves and has counted.
type place struct {
	*serving
	loop   *loop.Loop
	inners *inner.Set
	calls  []*callServed // for use again
	timer  loop.Timer
	served Served

	crcOf                   known // by length
	crcs, lengths, statuses text
	scratch                 [16 << 10]byte // to unmask in
}

func newPlace(s *serving, l *loop.Loop) *place {
	p := &place{serving: s, loop: l, inners: inner.NewSet(l, h2.Options{MaxStreams: maxConcurrency})}
	p.served.Errors = map[string]int64{}
	p.timer.F = p.tick
	l.Do(p.tick)
	return p
}

func (p *place) tick() {
	p.inners.Tick(p.loop.Now())
	p.loop.After(&p.timer, time.Second)
}

// accept answers a CONNECT, whatever its authority.
func (p *place) accept(in *hbone.Incoming) {
	first := p.begin()
	t := in.Accept(first, nil)
	first.attach(t, t.SetReceiver)
}

func (p *place) begin() *sniffer {
	p.served.Accepted++
	p.served.Open++
	return &sniffer{p: p}
}

// gone counts the end of a stream, and what is wrong with it.
func (p *place) gone(err error) {
	p.served.Open--
	p.failed(err)
}

// failed counts an error, if it is one.
func (p *place) failed(err error) {
	if err != nil {
		p.served.Errors[kindOf(err)]++
	}
}

// took counts a request, and checks the content that came with it.
func (p *place) took(got body) {
	p.served.Requests++
	p.served.BytesReceived += got.n
	if got.n > 0 && got.crc != p.crcOf.length(got.n) {
		p.served.Errors[kindCRC]++
	}
}

// asked returns what a request asks for: how much content, and with which
// status.
func (p *place) asked(method string, f l7.Fields) (size int64, status int) {
	if v := f.Get(sizeField); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 0 || n > maxContent {
			return 0, 400
		}
		size = n
	}
	if method == "HEAD" || p.Status == 204 || p.Status == 304 {
		size = 0
	}
	return size, p.Status
}

// waits reports whether the client waits for a 100 before it sends content.
func waits(f l7.Fields) bool { return strings.EqualFold(f.Get("expect"), "100-continue") }

// What follows remembers the last of what was computed: requests are mostly
// alike.

// known is contentCRC.
type known struct{ last body }

func (k *known) length(n int64) uint32 {
	if k.last.n != n {
		k.last = body{n: n, crc: contentCRC(n)}
	}
	return k.last.crc
}

// A text is a number as a field has it.
type text struct {
	of int64
	is string
}

func (t *text) crc(crc uint32) string {
	if t.is == "" || t.of != int64(crc) {
		t.of, t.is = int64(crc), crcText(crc)
	}
	return t.is
}

func (t *text) decimal(n int64) string {
	if t.is == "" || t.of != n {
		t.of, t.is = n, strconv.FormatInt(n, 10)
	}
	return t.is
}
