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

// Why a question was not asked.
var (
	ErrBusy   = errors.New("too many questions are open")
	ErrClosed = errors.New("it is asked no more: it is being replaced, or we are ending")
)

// errGivenUp is the cause when nobody waits for the answer any more.
var errGivenUp = errors.New("given up")

// A Client asks one provider. Its methods may be called from anywhere.
type Client struct {
	// Immutable.
	provider *authz.Provider
	ask      func(context.Context, *Request) (Answer, error)
	hangUp   func()
	pending  int
	ctx      context.Context // of the questions
	giveUp   context.CancelFunc

	mu     sync.Mutex
	status Status        // guarded by mu
	closed bool          // guarded by mu
	idle   chan struct{} // guarded by mu; closed when nothing is open any more; nil: nobody waits
}

// A Status is what has become of a Client's questions.
type Status struct {
	Asked  uint64 // all there were
	Failed uint64 // those of them that nobody answered
	Open   int    // those that have not been answered yet

	LastError error // of those that failed, why the last one did
	LastAt    time.Time
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
	c := &Client{provider: p, ask: ask, hangUp: end, pending: o.Pending}
	c.ctx, c.giveUp = context.WithCancel(context.Background())
	return c
}

// Provider returns what the Client was made of.
func (c *Client) Provider() *authz.Provider { return c.provider }

// Status returns what has become of the questions so far.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// Ask asks about r, which it keeps until the answer, and returns at once. answer
// is called once, on another goroutine, unless cancel was called before. Who
// shows more content than the provider takes is refused without asking, with
// 413.
func (c *Client) Ask(r *Request, answer func(Answer)) (cancel func()) {
	ctx, giveUp := context.WithCancelCause(c.ctx)
	if b := c.provider.Body; b != nil && r.Partial && !b.AllowPartial {
		go answered(ctx, Answer{Status: http.StatusRequestEntityTooLarge}, answer)
	} else if err := c.open(); err != nil {
		go answered(ctx, c.failed(err), answer)
	} else {
		go c.run(ctx, giveUp, r, answer)
	}
	return func() { giveUp(errGivenUp) }
}

// open makes room for a question, or says why there is none.
func (c *Client) open() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status.Asked++
	switch {
	case c.closed:
		return c.noteLocked(ErrClosed)
	case c.status.Open >= c.pending:
		return c.noteLocked(ErrBusy)
	}
	c.status.Open++
	return nil
}

// noteLocked counts a failure, and returns it.
func (c *Client) noteLocked(err error) error {
	c.status.Failed++
	c.status.LastError, c.status.LastAt = err, time.Now()
	return err
}

// note counts a failure, for who is then told of it to find; but what nobody waits
// for any more has not failed.
func (c *Client) note(ctx context.Context, err error) {
	if givenUp(ctx) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.noteLocked(err)
}

// run asks one question. Who asked is told before it is over, so that Shutdown
// returns after them.
func (c *Client) run(ctx context.Context, giveUp context.CancelCauseFunc, r *Request, answer func(Answer)) {
	defer giveUp(nil)
	timed, stop := context.WithTimeout(ctx, c.provider.Patience())
	defer stop()
	a, err := c.ask(timed, r)
	if err != nil {
		a = c.failed(err)
		c.note(ctx, err)
	}
	answered(ctx, a, answer)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status.Open--; c.status.Open == 0 && c.idle != nil {
		close(c.idle)
		c.idle = nil
	}
}

func givenUp(ctx context.Context) bool { return errors.Is(context.Cause(ctx), errGivenUp) }

// answered tells, unless nobody listens any more.
func answered(ctx context.Context, a Answer, answer func(Answer)) {
	if !givenUp(ctx) {
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

// Shutdown takes no more questions, which fail with ErrClosed, and returns when
// those that are open have been answered. When ctx is done first, they are given
// up, and so fail, and its error is returned.
func (c *Client) Shutdown(ctx context.Context) (err error) {
	c.mu.Lock()
	c.closed = true
	if c.idle == nil && c.status.Open > 0 {
		c.idle = make(chan struct{})
	}
	idle := c.idle
	c.mu.Unlock()
	if idle != nil {
		select {
		case <-idle:
		case <-ctx.Done():
			err = context.Cause(ctx)
			c.giveUp()
			<-idle
		}
	}
	c.giveUp()
	c.hangUp()
	return err
}

// Close is Shutdown for who does not wait for answers.
func (c *Client) Close() {
	ctx, stop := context.WithCancel(context.Background())
	stop()
	_ = c.Shutdown(ctx) // the error is that we did not wait
}
