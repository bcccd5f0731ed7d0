// Package extauthz asks external authorizers whether a request may pass: services
// that speak Envoy's ext_authz protocol, over gRPC or plain HTTP.
//
//	Request ─ Client.Ask ─► CheckRequest, or an HTTP request ─► Answer
//
// A Client asks on goroutines of its own and never blocks its caller. What cannot
// be asked, or is not answered in time, or with an error, is a refusal unless the
// provider says failOpen; that is the provider's to say, not a default.
//
// The package decides nothing about which requests are asked about, and edits no
// request: an Answer says what to edit.
package extauthz

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// A Request is what an authorizer is asked about. It and all it points to are
// the Client's until the answer.
type Request struct {
	Source, Dest netip.AddrPort
	Peer, Self   identity.ID
	At           time.Time // when it came

	Head    *l7.Request // nil: a connection that is not HTTP
	Content []byte
	Partial bool // there is more content than that
}

// An Answer is what an authorizer said.
type Answer struct {
	Allowed bool

	// Err says why there was no answer of the authorizer's: whether the request
	// passes is then the provider's choice.
	Err error

	// Of a request that is allowed: what to do to it, and fields to set in the
	// response to it.
	Edits       []Edit
	SetQuery    []Parameter
	RemoveQuery []string
	Response    []Edit

	// Of one that is not: the response. Fields have neither connection fields
	// nor a length.
	Status int
	Fields l7.Fields
	Body   []byte
}

// An Edit changes the fields called Name, in lower case.
type Edit struct {
	Action Action
	Name   string
	Value  string
}

// An Action is what an Edit does.
type Action uint8

// The actions.
const (
	Set          Action = iota // replaces whatever there is
	Append                     // adds another
	AddIfAbsent                // adds if there is none
	SetIfPresent               // replaces if there is one
	Remove
)

// Apply edits fields.
func Apply(f l7.Fields, edits []Edit) l7.Fields {
	for _, e := range edits {
		switch e.Action {
		case Set:
			f = f.Set(e.Name, e.Value)
		case Append:
			f = append(f, l7.Field{Name: e.Name, Value: e.Value})
		case AddIfAbsent:
			if !f.Has(e.Name) {
				f = append(f, l7.Field{Name: e.Name, Value: e.Value})
			}
		case SetIfPresent:
			if f.Has(e.Name) {
				f = f.Set(e.Name, e.Value)
			}
		case Remove:
			f = f.Del(e.Name)
		}
	}
	return f
}

// A Parameter is one of a query.
type Parameter struct{ Name, Value string }

// Options of a Client. Dial or Ask must be set.
type Options struct {
	// Dial connects to the provider's service.
	Dial func(context.Context) (net.Conn, error)

	// Ask is an authorizer in this process, which is asked in place of a service.
	// It may block, and obeys its context.
	Ask func(context.Context, *Request) (Answer, error)

	// Pending is how many questions may be open; those beyond fail at once. 0:
	// 1,024.
	Pending int
}

// ErrBusy is why a question was not asked: too many were open.
var ErrBusy = errors.New("too many questions are open")

// errGivenUp is the cause when nobody waits for the answer any more.
var errGivenUp = errors.New("given up")

// A Client asks one provider. Its methods may be called from anywhere.
type Client struct {
	provider *authz.Provider
	ask      func(context.Context, *Request) (Answer, error)
	close    func()
	room     chan struct{} // a token for each question
	ctx      context.Context
	end      context.CancelFunc
	asking   sync.WaitGroup
}

// New returns a Client of p, which has been validated. It connects when it is
// first asked.
func New(p *authz.Provider, o Options) (*Client, error) {
	switch {
	case o.Ask != nil:
		return newClient(p, o, o.Ask, func() {}), nil
	case p.Kind == authz.OPA:
		return nil, fmt.Errorf("authorizer %s: it is asked in this process, by nobody", p.Name)
	case p.Kind == authz.GRPC:
		ask, end, err := overGRPC(p, o.Dial)
		if err != nil {
			return nil, fmt.Errorf("authorizer %s: %w", p.Name, err)
		}
		return newClient(p, o, ask, end), nil
	}
	ask, end := overHTTP(p, o.Dial)
	return newClient(p, o, ask, end), nil
}

func newClient(p *authz.Provider, o Options, ask func(context.Context, *Request) (Answer, error), end func()) *Client {
	if o.Pending <= 0 {
		o.Pending = 1024
	}
	c := &Client{provider: p, ask: ask, close: end, room: make(chan struct{}, o.Pending)}
	c.ctx, c.end = context.WithCancel(context.Background())
	return c
}

// Provider returns what the Client was made of.
func (c *Client) Provider() *authz.Provider { return c.provider }

// Ask asks about r, which it keeps until the answer, and returns at once. answer
// is called once, on another goroutine, unless cancel was called before. Who
// shows more content than the provider takes is refused without asking, with
// 413.
func (c *Client) Ask(r *Request, answer func(Answer)) (cancel func()) {
	ctx, giveUp := context.WithCancelCause(c.ctx)
	cancel = func() { giveUp(errGivenUp) }
	if b := c.provider.Body; b != nil && r.Partial && !b.AllowPartial {
		go c.answered(ctx, Answer{Status: http.StatusRequestEntityTooLarge}, answer)
		return cancel
	}
	select {
	case c.room <- struct{}{}:
	default:
		go c.answered(ctx, c.failed(ErrBusy), answer)
		return cancel
	}
	c.asking.Go(func() {
		defer giveUp(nil)
		timed, stop := context.WithTimeout(ctx, c.provider.Patience())
		defer stop()
		a, err := c.ask(timed, r)
		<-c.room
		if err != nil {
			a = c.failed(err)
		}
		c.answered(ctx, a, answer)
	})
	return cancel
}

// answered tells, unless nobody listens any more.
func (c *Client) answered(ctx context.Context, a Answer, answer func(Answer)) {
	if !errors.Is(context.Cause(ctx), errGivenUp) {
		answer(a)
	}
}

// failed is the answer when there is none.
func (c *Client) failed(err error) Answer {
	return Answer{
		Allowed: c.provider.FailOpen, Status: c.provider.Refusal(),
		Err: fmt.Errorf("authorizer %s: %w", c.provider.Name, err),
	}
}

// Close gives up what is asked, and returns when every answer has been told.
func (c *Client) Close() {
	c.end()
	c.asking.Wait()
	c.close()
}
