// Package xds feeds a Store from istiod: what it tells node tunnels of workloads
// and services (istio.workload.Address) and of L4 policies
// (istio.security.Authorization), over one delta ADS stream.
//
//	istiod → DeltaDiscoveryResponse → mesh.Workload, mesh.Service, authz.Policy → Store.Apply
//
// What is in force does not depend on the stream. While istiod is away, nothing
// changes; when it is back, it is told which versions we have, and answers with
// what differs: what was changed, and the names of what is gone.
//
// A resource that cannot be used is refused by itself: the others of its response
// take effect, and istiod is told the name and the reason (a NACK). Its last
// good version stays in force. A policy that never was good closes what it is
// for, as the Store has it.
//
// # Resources and names
//
// A workload is called by its UID, a service by namespace/hostname, a policy by
// namespace/name. What cannot be known from the wire is left out: names of ports,
// and which Gateway a waypoint's pod is of.
package xds

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/istiod"
)

// The types that are subscribed to.
const (
	AddressType       = "type.googleapis.com/istio.workload.Address"
	AuthorizationType = "type.googleapis.com/istio.security.Authorization"
)

const (
	firstBackoff = 10 * time.Millisecond
	maxBackoff   = 15 * time.Second

	// settled is how long a stream must have lasted for the next to be opened
	// without a pause: istiod closes streams every half hour, to spread them. One
	// that ends sooner may do so for what we ask.
	settled = maxBackoff
)

// Options say whom to ask and as whom.
type Options struct {
	Istiod istiod.Options
	Node   Node

	// OnDemand subscribes to no addresses but those that Demand is asked for,
	// and those of this node, which istiod sends unasked. Policies are
	// subscribed to whole.
	OnDemand bool

	Log *slog.Logger // nil: silent
}

// A Source is a client of istiod. Make one with New.
type Source struct {
	o       Options
	demands demands
	counts  counters

	// Owned by Run.
	types   [2]*subscription
	convert converter
	said    string // the last trouble that was logged
}

// New returns a Source that has asked nothing yet.
func New(o Options) (*Source, error) {
	if err := o.Istiod.Check(); err != nil {
		return nil, fmt.Errorf("xds: %w", err)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Source{o: o, demands: newDemands()}
	s.types = [2]*subscription{
		{url: AddressType, convert: s.convert.address, demanded: o.OnDemand},
		{url: AuthorizationType, convert: s.convert.authorization},
	}
	return s, nil
}

// Run subscribes and applies what comes until ctx ends. It tells the store that
// it is in sync when every type that is subscribed to whole has been answered
// once. It always returns nil: istiod may be away at any time, and is asked again
// until it answers.
func (s *Source) Run(ctx context.Context, store *config.Store) error {
	s.convert.root = store.Options().RootNamespace
	if s.o.Istiod.Plain() {
		s.o.Log.Warn("xds: the connection to istiod is not protected: whoever is between can change what is in force", "address", s.o.Istiod.Address)
	}
	backoff := firstBackoff
	for ctx.Err() == nil {
		start := time.Now()
		why, err := s.session(ctx, store)
		s.counts.connected.Store(false)
		if ctx.Err() != nil {
			break
		}
		s.counts.ended[why].Add(1)
		if time.Since(start) >= settled {
			backoff = firstBackoff
		}
		wait := jitter(backoff)
		s.trouble(why, err, wait)
		backoff = min(2*backoff, maxBackoff)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	return nil
}

// jitter returns d, give or take a fifth: nodes that lost their istiod together
// do not come back together.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// trouble logs why a stream ended: once for as long as it is the same.
func (s *Source) trouble(why Ending, err error, wait time.Duration) {
	if why == Reconnect || why == Complete {
		s.o.Log.Debug("xds: the stream ended", "reason", why.String(), "error", err, "next", wait)
		return
	}
	level := slog.LevelDebug
	if said := err.Error(); said != s.said {
		s.said, level = said, slog.LevelWarn
	}
	s.o.Log.Log(context.Background(), level, "xds: no stream from istiod: what was known stays in force",
		"address", s.o.Istiod.Address, "reason", why.String(), "error", err, "next", wait)
}

// An Ending is a reason for which a stream ended.
type Ending uint8

// The endings, as istio_xds_connection_terminations_total tells them.
const (
	ConnectionError Ending = iota // there was no stream
	Error                         // istiod refused, or the stream broke
	Reconnect                     // the connection was closed in good order
	Complete                      // the stream was
	endings
)

func (e Ending) String() string {
	return [...]string{"ConnectionError", "Error", "Reconnect", "Complete"}[e]
}

// counters are what Stats reads.
type counters struct {
	connected atomic.Bool
	ended     [endings]atomic.Uint64
	of        [2]struct{ messages, bytes, nacks, known atomic.Uint64 }
}

// Stats are what has happened on the stream, for metrics.
type Stats struct {
	Connected    bool            // istiod has answered on the stream that is open
	Terminations [endings]uint64 // by Ending
	Types        [2]TypeStats    // AddressType, AuthorizationType
}

// TypeStats are those of one type of resource.
type TypeStats struct {
	URL       string
	Messages  uint64 // responses
	Bytes     uint64 // of them
	Nacks     uint64 // responses of which something was refused
	Resources uint64 // known now
}

// Stats returns what has happened so far. It may be called at any time.
func (s *Source) Stats() Stats {
	out := Stats{Connected: s.counts.connected.Load()}
	for i := range out.Terminations {
		out.Terminations[i] = s.counts.ended[i].Load()
	}
	for i := range out.Types {
		c := &s.counts.of[i]
		out.Types[i] = TypeStats{s.types[i].url, c.messages.Load(), c.bytes.Load(), c.nacks.Load(), c.known.Load()}
	}
	return out
}
