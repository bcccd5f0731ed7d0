// Package opa runs policies of Open Policy Agent's in this process.
//
//	Path, or Modules ─ read ─► compile ─► policy ─┐  again whenever the files change
//	Request ─ document ─► Authorizer.Ask: evaluate ┴─ decision ─► Answer
//
// An [Authorizer] decides as OPA with its plugin for Envoy does
// (github.com/open-policy-agent/opa-envoy-plugin): the input document and what
// may be answered are the same, so that a policy that was written for it runs
// unchanged. Questions come from an extauthz.Client, which says on which
// goroutine and for how long.
//
// A policy cannot reach the network: http.send and its like are errors where it
// is compiled. A request that waits for this process would wait for whatever it
// asked, and with it the core that evaluates; a policy that needs the world is
// run by OPA itself, behind a provider that is asked over gRPC.
//
// [Query] is the same evaluator for those who bring their own document: the
// oracle of package authz. No other package imports OPA.
package opa

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/extauthz"
)

// Options of an Authorizer. The zero value of each is its default.
type Options struct {
	// Log takes a line of JSON for each decision, as OPA's decision logs have it;
	// nil: none. It is called from several goroutines at a time, and never with
	// less than a line.
	Log io.Writer

	// Logger is told of policies that were read, and of those that cannot be.
	Logger *slog.Logger

	// After is the Authorizer that this one takes the place of: its policy stays
	// in force until ours has been read, should that take a while, and if ours does
	// not compile, the first time.
	After *Authorizer

	// Slots is how many evaluations run at a time, since each keeps a core busy;
	// others wait. 0: as many as Go uses cores.
	Slots int
}

// An Authorizer decides by one provider's policy. It follows the policy's files,
// and is safe for concurrent use.
type Authorizer struct {
	// Immutable.
	provider *authz.Provider
	logger   *slog.Logger
	log      *decisionLog
	slots    chan struct{} // a token for each evaluation
	looked   chan struct{} // closed when the policy has been read for the first time
	stop     context.CancelFunc
	done     chan struct{} // closed when follow has returned

	current atomic.Pointer[policy]     // what is in force; nil: no version was good
	after   atomic.Pointer[Authorizer] // Options.After, until looked is closed

	mu     sync.Mutex
	status Status // guarded by mu
}

// A Status says which policy is in force.
type Status struct {
	Loaded   time.Time // when that was read; zero: no version was good, and nothing is decided
	Revision string    // of a bundle
	Err      error     // why the version that is there now is not in force
}

// New returns an Authorizer that decides as p's OPA says. It reads the policy on
// a goroutine of its own, which Close ends; whoever asks before that waits. A
// policy that is no good is no error of New's: see [Authorizer.Status]. What it
// concerns is not decided, which the provider may take for a refusal.
func New(p *authz.Provider, o Options) *Authorizer {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, stop := context.WithCancel(context.Background())
	a := &Authorizer{
		provider: p, logger: o.Logger.With("provider", p.Name), stop: stop,
		slots:  make(chan struct{}, cmp.Or(max(o.Slots, 0), runtime.GOMAXPROCS(0))),
		looked: make(chan struct{}), done: make(chan struct{}),
	}
	if o.Log != nil {
		a.log = &decisionLog{out: o.Log, provider: p.Name, path: decisionPath(p.OPA)}
	}
	a.after.Store(o.After)
	go a.follow(ctx)
	return a
}

// Read returns a channel that is closed when the policy has been read for the
// first time, whether it is good or not.
func (a *Authorizer) Read() <-chan struct{} { return a.looked }

// decisionPath is the path of the rule that decides, as OPA's plugin for Envoy
// has it in plugins.envoy_ext_authz_grpc.path.
func decisionPath(o *authz.OPAPolicy) string { return cmp.Or(o.Decision, "envoy/authz/allow") }

// Close stops following the files.
func (a *Authorizer) Close() {
	a.stop()
	<-a.done
}

// Status returns which policy is in force.
func (a *Authorizer) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status
}

// Ask decides about r; see [extauthz.Options]. It is an error if the policy does
// not decide: it was never good, its rule is undefined, it answers what is no
// decision, or takes longer than ctx allows.
func (a *Authorizer) Ask(ctx context.Context, r *extauthz.Request) (extauthz.Answer, error) {
	p, err := a.policy(ctx)
	if err != nil {
		return extauthz.Answer{}, err
	}
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-ctx.Done():
		return extauthz.Answer{}, fmt.Errorf("opa: all who could decide are busy: %w", context.Cause(ctx))
	}
	e := event{request: r, policy: p, began: time.Now()}
	answer, err := e.decide(ctx, a.provider)
	if a.log != nil {
		a.log.write(&e)
	}
	return answer, err
}

// An event is one decision.
type event struct {
	request *extauthz.Request
	policy  *policy
	began   time.Time
	input   ast.Value // nil: there was no document
	result  any
	err     error
}

// decide takes the decision. A request that the policy cannot see is refused, and
// is no failure to decide: with a provider that fails open it would be the
// client who chooses.
func (e *event) decide(ctx context.Context, p *authz.Provider) (answer extauthz.Answer, err error) {
	if e.input, e.err = document(p, e.request); e.err != nil {
		return extauthz.Answer{Status: http.StatusBadRequest, Body: []byte(e.err.Error())}, nil
	}
	if e.result, e.err = e.policy.decision.eval(ctx, e.input); e.err == nil {
		answer, e.err = answerOf(e.result)
	}
	return answer, e.err
}

// handover is how long a question waits for a policy that is being read for the
// first time before that of the Authorizer before is asked: 100 ms, or half of
// what an answer may take.
const handover = 100 * time.Millisecond

// policy returns what is in force.
func (a *Authorizer) policy(ctx context.Context) (*policy, error) {
	select {
	case <-a.looked:
	default:
		if p, err := a.early(ctx); p != nil || err != nil {
			return p, err
		}
	}
	if p := a.current.Load(); p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("opa: there is no policy: %w", cmp.Or(a.Status().Err, errors.New("it was never read")))
}

// early waits for the policy to be read, and returns what is in force meanwhile
// if that takes long.
func (a *Authorizer) early(ctx context.Context) (*policy, error) {
	var late <-chan time.Time
	before := a.after.Load().inForce()
	if before != nil {
		t := time.NewTimer(min(handover, a.provider.Patience()/2))
		defer t.Stop()
		late = t.C
	}
	select {
	case <-a.looked:
		return nil, nil
	case <-late:
		return before, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("opa: the policy is being read: %w", context.Cause(ctx))
	}
}
