package waypoint

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/h2"
)

// bodySize is how much content every message has here.
const bodySize = 8 << 10

// A play is one exchange, and how far it has come: it parks for the authorizer
// with its content gathered, is refused by the first endpoint, and goes through
// on the second.
type play struct {
	r        *rig
	http2    bool // both ends
	refusal  refusalKind
	client   actor
	tunnel   *wire
	endpoint actor
	refused  *wire // of the endpoint that refused the stream
}

// A refusalKind is how the first endpoint declines.
type refusalKind string

const (
	unreachable refusalKind = "unreachable"
	refusesIt   refusalKind = "REFUSED_STREAM"
)

// events are what happens, in order.
var events = []struct {
	name string
	do   func(p *play)
}{
	{"a part of the head", func(p *play) {
		p.tunnel = p.r.open()
		if p.http2 {
			p.client = newH2Actor(p.r, p.tunnel, h2.Client)
		} else {
			p.client = &h1Actor{w: p.tunnel}
		}
		p.client.part()
	}},
	{"the head", func(p *play) { p.client.head(bodySize) }},
	{"some content, gathering", func(p *play) { p.client.body(3000) }},
	{"all content, asking", func(p *play) { p.client.body(bodySize - 3000) }},
	{"the authorizer's answer, dialling", func(p *play) { p.r.asked[0].answer(nil) }},
	{"the first endpoint declines, dialling", func(p *play) {
		d := p.r.dials[0]
		if p.refusal == unreachable {
			d.refused()
			return
		}
		p.refused = d.connected()
		newH2Actor(p.r, p.refused, h2.Server).refuse = true
	}},
	{"the second endpoint takes some", func(p *play) {
		leg := p.r.dials[1].connected()
		if p.http2 {
			a := newH2Actor(p.r, leg, h2.Server)
			a.take = 0
			p.endpoint = a
			return
		}
		leg.room = 2000
		p.endpoint = &h1Actor{w: leg, server: true}
	}},
	{"the second endpoint takes the rest", func(p *play) { p.endpoint.leave(1 << 20) }},
	{"the head of the response", func(p *play) { p.endpoint.head(bodySize) }},
	{"some of the response, of which the client takes less", func(p *play) {
		if a, ok := p.client.(*h2Actor); ok {
			a.take = 0
		} else {
			p.tunnel.room = 100
		}
		p.endpoint.body(6000)
	}},
	{"the client takes some more", func(p *play) { p.client.leave(1000) }},
	{"the rest of the response", func(p *play) { p.endpoint.body(bodySize - 6000) }},
	{"the client takes it all", func(p *play) { p.client.leave(1 << 20) }},
}

// aborts are how a client gives up.
var aborts = []struct {
	name string
	do   func(p *play)
}{
	{"resets its tunnel", func(p *play) { p.tunnel.peerReset(errors.New("reset")) }},
	{"closes its tunnel", func(p *play) { p.tunnel.eof() }},
	{"cancels its stream", func(p *play) {
		a, ok := p.client.(*h2Actor)
		if !ok || a.half != "" {
			p.tunnel.peerReset(errors.New("reset"))
			return
		}
		a.stream.Reset(nil)
		a.push()
	}},
}

// TestExchangeAborted gives an exchange up after every event of its life.
func TestExchangeAborted(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		for _, refusal := range []refusalKind{unreachable, refusesIt} {
			if refusal == refusesIt && !http2 {
				continue // HTTP/1.1 has nothing like it
			}
			for _, abort := range aborts {
				for after := range events {
					name := fmt.Sprintf("http2=%v/%s/%s/after %s", http2, refusal, abort.name, events[after].name)
					t.Run(name, func(t *testing.T) { playUntil(t, http2, refusal, after, abort.do) })
				}
			}
		}
	}
}

// TestExchangeRetried lets it come to its end.
func TestExchangeRetried(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		for _, refusal := range []refusalKind{unreachable, refusesIt} {
			if http2 || refusal == unreachable {
				t.Run(fmt.Sprintf("http2=%v/%s", http2, refusal), func(t *testing.T) { playUntil(t, http2, refusal, len(events)-1, nil) })
			}
		}
	}
}

func playUntil(t *testing.T, http2 bool, refusal refusalKind, last int, abort func(*play)) {
	r := newRig(t, nil)
	r.consult(shown(bodySize, false))
	p := &play{r: r, http2: http2, refusal: refusal}
	for i := 0; i <= last; i++ {
		r.do(func() { events[i].do(p) })
	}
	whole := last == len(events)-1
	if whole {
		r.do(func() {
			if n := p.client.received(); n != bodySize || !p.client.ended() {
				t.Errorf("the client got %d bytes, ended %v; want %d", n, p.client.ended(), bodySize)
			}
			if n := p.endpoint.received(); n != bodySize || !p.endpoint.ended() {
				t.Errorf("the endpoint got %d bytes, ended %v; want %d", n, p.endpoint.ended(), bodySize)
			}
			if a, ok := p.client.(*h1Actor); ok && a.w.credited != a.w.sent {
				t.Errorf("the client's tunnel was credited %d of %d bytes", a.w.credited, a.w.sent)
			}
		})
	}
	if abort != nil {
		r.do(func() { abort(p) })
		// What is asked of the actors must be seen before everything is torn down.
		r.do(func() {
			if !whole && p.endpoint != nil && !p.endpoint.canceled() && last < len(events)-2 {
				t.Errorf("the endpoint does not know that the exchange was given up")
			}
		})
	}
	r.do(func() { p.tunnel.peerReset(errors.New("over")) })
	r.do(func() {
		for i, q := range r.asked {
			if answered := last >= 4; q.canceled == answered {
				t.Errorf("question %d: called off %v, answered %v", i, q.canceled, answered)
			}
			if len(q.Content) != bodySize || q.Partial {
				t.Errorf("the authorizer saw %d bytes, a part %v; want %d, all of it", len(q.Content), q.Partial, bodySize)
			}
		}
		for i, d := range r.dials {
			if !http2 && d.leg == nil && !d.canceled && !(i == 0 && last >= 5) {
				t.Errorf("dial %d goes on", i)
			}
			if d.leg == nil && !d.canceled && http2 && !(i == 0 && last >= 5) {
				d.refused() // others might have waited for it
			}
		}
	})
	r.wantNothingLeft()
	lines := r.logged()
	wantLines, flags := 1, `"response_flags":"DC"`
	if last == 0 {
		wantLines = 0
	}
	if last >= len(events)-2 { // the response had been written
		flags = `"response_flags":"-"`
	}
	if len(lines) != wantLines || wantLines == 1 && !strings.Contains(lines[0], flags) {
		t.Errorf("got %d records, want %d with %s:\n%s", len(lines), wantLines, flags, strings.Join(lines, "\n"))
	}
}
