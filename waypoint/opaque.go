package waypoint

import (
	"errors"
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/flow"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/routing"
	"github.com/waystone-mesh/waystone/telemetry"
)

// flushEvery is how often the counters of a long tunnel are brought up to date:
// 5 s, as Istio's.
const flushEvery = 5 * time.Second

var errPolicyChanged = errors.New("waypoint: closed due to policy change")

// An opaque is a tunnel that is not HTTP: it is authorized as a connection,
// copied, and authorized again whenever configuration that concerns it changes.
type opaque struct {
	s        *session
	dest     *config.Destination
	input    authz.Input
	endpoint *mesh.Endpoint
	tried    []*mesh.Workload
	cancel   func()
	early    flow.Early // what came before there was an upstream
	pair     flow.Pair
	copying  bool
	opened   bool // counted as a connection
	over     bool
	rec      telemetry.TCP
	flushed  time.Time
}

// serveOpaque judges the session's tunnel, connects it and copies. first is what
// has been read of it. A CONNECT that is not answered yet is answered with what
// came of that.
func (s *session) serveOpaque(first []byte, eof bool) {
	o := &opaque{s: s, dest: s.dest, input: s.input()}
	s.serving = o
	o.early.Gone = func(err error) { o.finish(telemetry.DC, err) }
	if o.early.Data(first); eof {
		o.early.EOF()
	}
	o.record()
	if s.tunnel != nil {
		s.tunnel.SetReceiver(&o.early)
	} else {
		s.in.OnCancel(func() { o.finish(telemetry.DC, errClientClosed) })
	}
	if bufs.InUse() > s.worker.options.Budget {
		o.refuse(503, telemetry.OM, errOverloaded)
		return
	}
	if v := o.dest.Policies.Check(&o.input); !v.Allowed {
		o.rec.Termination = v.Details()
		o.refuse(403, 0, &deniedError{v})
		return
	}
	o.connect()
}

// drain has nothing to do: there is no way to tell either side, and it is cut at
// the deadline.
func (o *opaque) drain() {}

// connect opens the way to one endpoint after another until one answers.
func (o *opaque) connect() {
	w := o.s.worker
	if o.endpoint = o.choose(); o.endpoint == nil {
		o.refuse(503, telemetry.UH, errNoEndpoint)
		return
	}
	o.endpoint.Load.Add(1)
	o.tried = append(o.tried, o.endpoint.Workload)
	o.cancel = w.origin(o.dest.Service, o.endpoint, false).dial(o.connected)
}

func (o *opaque) choose() *mesh.Endpoint {
	w := o.s.worker
	if o.dest.Workload != nil {
		return o.s.direct(o.dest.Workload)
	}
	fresh := untried(o.dest.Endpoints, o.tried)
	if len(fresh) == 0 && len(o.tried) > 0 {
		return nil
	}
	return routing.LeastLoaded(fresh, w.random())
}

func (o *opaque) connected(leg flow.Stream, attach func(flow.Receiver), err error) {
	o.cancel = nil
	switch {
	case o.over: // the client went away meanwhile
		if leg != nil {
			leg.Reset(nil)
		}
		return
	case err != nil:
		o.endpoint.Load.Add(-1)
		if len(o.tried) < maxAttempts && untried(o.dest.Endpoints, o.tried) != nil {
			o.connect()
			return
		}
		o.rec.TransportFailure = transportFailure(err)
		o.endpoint = nil
		o.refuse(503, telemetry.UF, err)
		return
	}
	s := o.s
	if s.tunnel == nil {
		s.accept()
	}
	o.open()
	o.pair.Join(s.tunnel, leg, o.done)
	o.copying = true
	attach(o.pair.B())
	s.tunnel.SetReceiver(o.pair.A())
	o.early.HandTo(o.pair.A())
}

// recheck judges the tunnel again. It is called when configuration that concerns
// it has changed.
func (o *opaque) recheck() {
	dest := o.s.destination()
	if dest != nil {
		o.dest, o.input = dest, o.s.input()
		v := dest.Policies.Check(&o.input)
		if v.Allowed {
			return
		}
		o.rec.Termination = v.Details()
	}
	o.rec.Flag |= telemetry.UC
	if o.copying {
		o.pair.Reset(errPolicyChanged)
		return
	}
	o.refuse(403, 0, errPolicyChanged)
}

// refuse ends a tunnel that has no upstream.
func (o *opaque) refuse(status int, flag telemetry.Flag, err error) {
	if o.s.tunnel != nil {
		o.s.tunnel.Reset(err)
	} else {
		o.s.in.Refuse(status)
	}
	o.finish(flag, err)
}

// done is told that the copy is over.
func (o *opaque) done(err error) { o.finish(0, err) }

func (o *opaque) finish(flag telemetry.Flag, err error) {
	if o.over {
		return
	}
	o.over = true
	o.rec.Flag |= flag
	o.rec.Err = err
	if cancel := o.cancel; cancel != nil {
		o.cancel = nil
		cancel()
	}
	if o.endpoint != nil {
		o.endpoint.Load.Add(-1)
	}
	o.early.Drop()
	o.report()
	o.s.close()
}

// untried returns the endpoints that are not in tried.
func untried(all []mesh.Endpoint, tried []*mesh.Workload) []mesh.Endpoint {
	if len(tried) == 0 {
		return all
	}
	var fresh []mesh.Endpoint
	for i := range all {
		seen := false
		for _, t := range tried {
			seen = seen || t == all[i].Workload
		}
		if !seen {
			fresh = append(fresh, all[i])
		}
	}
	return fresh
}
