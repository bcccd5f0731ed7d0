package hbone

import (
	"net/netip"
	"strconv"

	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/h2"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/internal/loop"
)

// An Incoming is a CONNECT that has not been answered. Whoever is given one
// calls Accept or Refuse, once, on its loop, now or later; bytes that the client
// sends meanwhile wait. It is a type of its own so that nobody can read a tunnel
// before having answered it; and so that what only matters until then need not
// be kept: there may be ten thousand idle tunnels.
type Incoming struct {
	Connect
	*Connection

	t        *Tunnel
	onCancel func()
}

// A Connection is what there is to know of the HBONE connection that tunnels
// arrive on. They share it, and it does not change.
type Connection struct {
	Peer   identity.ID    // the proxy that asks, by its certificate
	Source netip.AddrPort // where its connection comes from
	Local  netip.AddrPort // where it arrived
	Loop   *loop.Loop
}

// OnCancel has f called if the CONNECT is given up before it is answered. An
// answer is then of no effect: a tunnel that is accepted all the same is reset
// at once.
func (in *Incoming) OnCancel(f func()) { in.onCancel = f }

// Canceled reports whether the CONNECT has been given up.
func (in *Incoming) Canceled() bool { return in.t.gone }

// Accept answers 200 with the fields of f, baggage for one, and returns the
// tunnel. r takes what arrives; it may be nil until [Tunnel.SetReceiver]. It is
// not called before Accept returns.
func (in *Incoming) Accept(r flow.Receiver, f l7.Fields) *Tunnel {
	t := in.answer()
	if !t.gone {
		var buf [4]l7.Field
		t.s.Headers(append(append(buf[:0], l7.Field{Name: ":status", Value: "200"}), f...), false)
	}
	t.SetReceiver(r)
	return t
}

// Refuse answers with status, which is not 2xx.
func (in *Incoming) Refuse(status int) {
	t := in.answer()
	if !t.gone {
		refuse(t.s, status)
		t.gone = true
		t.c.touched()
	}
	t.die()
}

func (in *Incoming) answer() *Tunnel {
	t := in.t
	if t.in == nil {
		panic("hbone: a CONNECT was answered twice")
	}
	t.in, in.onCancel = nil, nil
	return t
}

// refuse answers status and ends both directions. The RST_STREAM asks the
// client to stop sending (RFC 9113, section 8.1); without it the stream would
// count against the limit until the client ends its own direction.
func refuse(s *h2.Stream, status int) {
	s.Headers(l7.Fields{{Name: ":status", Value: strconv.Itoa(status)}}, true)
	s.Reset(&h2.StreamError{Code: h2.CodeNoError})
}
