package program

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waystone-mesh/waystone/internal/admin"
	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/decisions"
	"github.com/waystone-mesh/waystone/internal/dump"
	"github.com/waystone-mesh/waystone/internal/file"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/internal/manifest"
	"github.com/waystone-mesh/waystone/telemetry"
)

// A Process is what stands around a data path. Its methods are called in the
// order in which they stand here.
type Process struct {
	Options *Options
	ctx     context.Context // done when the program is to end
	stop    context.CancelFunc
	group   *errgroup.Group // the first error of its functions ends ctx
	feeding context.CancelFunc

	writers   []*telemetry.Writer
	Log       *telemetry.Log
	Telemetry *telemetry.Telemetry
	Loops     *loop.Group
	Store     *config.Store
	source    Source
	files     *file.Source // the source, if it is of files
	Identity  identity.Source
	Ready     admin.Ready
	admin     *admin.Server

	Recent   *decisions.Recent     // shown by admin; nil: nothing is
	Reopened func(context.Context) // has further logs reopened; nil: there are none
}

// A Source has the store say what it reads, until ctx ends.
type Source interface {
	Run(context.Context, *config.Store) error
}

// New returns a process that ends when ctx does, or when a function of its
// group fails.
func New(ctx context.Context, o *Options) *Process {
	p := &Process{Options: o}
	ctx, p.stop = context.WithCancel(ctx)
	p.group, p.ctx = errgroup.WithContext(ctx)
	return p
}

// Context is done when the program is to end.
func (p *Process) Context() context.Context { return p.ctx }

// Go runs f until it returns, and ends the program with its error.
func (p *Process) Go(f func() error) { p.group.Go(f) }

// Open opens a log.
func (p *Process) Open(path string) (*telemetry.Writer, error) {
	w, err := telemetry.NewWriter(telemetry.WriterOptions{Path: path})
	if err == nil {
		p.writers = append(p.writers, w)
	}
	return w, err
}

// Report starts the log and telemetry; t says what differs between programs.
func (p *Process) Report(t telemetry.Options) error {
	o := p.Options
	w, err := p.Open(o.LogOutput)
	if err != nil {
		return err
	}
	if p.Log, err = telemetry.NewLog(telemetry.LogOptions{Output: w, JSON: o.LogJSON, Level: o.LogLevel}); err != nil {
		return fmt.Errorf("flag --log-level: %q: %w", o.LogLevel, err)
	}
	if p.Loops, err = loop.NewGroup(o.Loops, loop.Options{CryptoTLS: o.CryptoTLS}); err != nil {
		return err
	}
	live := &living{snapshot: p.Snapshot}
	t.Version, t.ClusterID, t.Live, t.Log = dump.Build().Version, o.ClusterID, live.telemetry(), p.Log
	t.Trace.Endpoint, t.Trace.TLS, t.Trace.Percent = o.Collector.Address, o.Collector.TLS, o.Sampling
	if o.Sampling == 0 {
		t.Trace.Percent = -1
	}
	t.OTLP = telemetry.OTLPOptions{
		Endpoint: o.AccessOTLP.Address, TLS: o.AccessOTLP.TLS,
		Service: cmp.Or(t.Trace.Service, string(t.Program)), Node: o.Node,
	}
	p.Telemetry, err = telemetry.New(t)
	return err
}

// Snapshot is the configuration as it is now.
func (p *Process) Snapshot() *config.Snapshot { return p.Store.Snapshot() }

// An Opener opens a source of configuration that is not of files.
type Opener func(log *slog.Logger) (Source, error)

// Know makes the store, with the view that c asks for, what will feed it (files if
// open is nil), and the identity source.
func (p *Process) Know(c config.Options, open Opener) (err error) {
	o := p.Options
	files := file.Options{
		Path: o.Config, MeshConfig: o.MeshConfig, Logger: p.Log.Scope("config"),
		Manifest: manifest.Options{
			ClusterDomain: o.ClusterDomain, ClusterID: o.ClusterID, Network: o.Network,
			MeshNamespace: o.RootNamespace, Revision: o.Revision,
			ByLabel: true, // there is no node agent beside a directory of files
		},
	}
	o.adopt(file.Mesh(files))
	files.Manifest.TrustDomain, files.Manifest.RootNamespace = o.TrustDomain, o.RootNamespace
	c.TrustDomain, c.RootNamespace = o.TrustDomain, o.RootNamespace
	if o.Given("trust-domain-alias") {
		c.Aliases = append([]string{}, o.Aliases...)
	}
	c.Network, c.ClusterID, c.Node, c.Compat118 = o.Network, o.ClusterID, o.Node, o.Compat118
	p.Store = config.NewStore(c)
	files.OnRead = p.compareMesh(files.Manifest.MeshNamespace)
	if open == nil {
		p.files = file.New(files)
		p.source = p.files
	} else if p.source, err = open(p.Log.Scope("xds")); err != nil {
		return err
	}
	p.Identity, err = identity.Open(o.Identity, identity.Options{
		TrustDomain: o.TrustDomain, Aliases: o.Aliases, Log: p.Log.Scope("identity"),
		Istiod: o.ca(), Impersonate: o.Istiod.impersonate, TTL: o.Istiod.TTL,
		Terms: o.Security.terms(), CRL: o.Security.CRL,
	})
	switch {
	case errors.Is(err, identity.ErrRevocations):
		return fmt.Errorf("flag --crl: %w", err)
	case err != nil:
		return fmt.Errorf("flag --identity: %w", err)
	}
	r := telemetry.Readings{
		RejectedResources: func() int { return len(p.Store.Rejected()) },
		Publishes:         func() uint64 { return p.Snapshot().Version() },
		BufferBytes:       bufs.InUse,
	}
	p.readings(&r)
	if s, ok := p.source.(interface{ Readings(*telemetry.Readings) }); ok {
		s.Readings(&r)
	}
	return p.Telemetry.Watch(r)
}

// Answer serves administration, metrics and readiness.
func (p *Process) Answer(configDump func() any) (err error) {
	o := p.Options
	a := admin.Options{
		Admin: o.Admin, Metrics: o.Metrics, Health: o.Readiness,
		Ready: &p.Ready, Gatherer: p.Telemetry.Metrics(), Log: p.Log, ConfigDump: configDump,
		Loops: p.showLoops, Quit: p.stop,
	}
	if p.Recent != nil {
		a.Recent = p.Recent.Query
	}
	if p.admin, err = admin.Listen(a); err != nil {
		return err
	}
	p.group.Go(p.admin.Serve)
	p.group.Go(p.reopen)
	p.group.Go(p.tidy)
	p.group.Go(p.watchLoops)
	return nil
}

// reopen reopens the logs whenever SIGUSR1 says that they were renamed.
func (p *Process) reopen() error {
	renamed := make(chan os.Signal, 1)
	signal.Notify(renamed, syscall.SIGUSR1)
	defer signal.Stop(renamed)
	for {
		select {
		case <-p.ctx.Done():
			return nil
		case <-renamed:
			for _, w := range p.writers {
				if err := w.Reopen(p.ctx); err != nil {
					p.Log.Scope("log").Error("log was not reopened", "error", err)
				}
			}
			if p.Reopened != nil {
				p.Reopened(p.ctx)
			}
		}
	}
}

// Feed starts the source of configuration and waits until everything that there
// was has been read. The source goes on until the data path has drained.
func (p *Process) Feed() error {
	done := p.Ready.Task("configuration")
	defer postponeGC()()
	var ctx context.Context
	ctx, p.feeding = context.WithCancel(context.WithoutCancel(p.ctx))
	p.group.Go(func() error { return p.source.Run(ctx, p.Store) })
	select {
	case <-p.Store.Ready():
		done()
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

// SVID waits until there is a certificate for id.
func (p *Process) SVID(id identity.ID) error {
	defer p.Ready.Task("certificate of " + id.String())()
	if source, ok := p.Identity.(Prefetcher); ok {
		source.Prefetch(id)
	}
	said := ""
	for {
		_, err := p.Identity.Certificate(p.ctx, id)
		switch {
		case err == nil:
			return nil
		case p.ctx.Err() != nil:
			return context.Cause(p.ctx)
		case err.Error() != said:
			said = err.Error()
			p.Log.Scope("identity").Warn("waiting for the certificate", "identity", id.String(), "error", err)
		}
		select {
		case <-p.ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// DialFrom returns how connections are made: from ip, if it is valid and nobody
// asks for another address.
func DialFrom(ip netip.Addr) func(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
	return func(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
		d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 180 * time.Second, Interval: 180 * time.Second, Count: 9}}
		if !src.IsValid() {
			src = ip
		}
		if src.IsValid() {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(src, 0))
		}
		return d.DialContext(ctx, "tcp", dst.String())
	}
}

// Wait returns when the program has been told to end and has: shutdown drains the
// data path.
func (p *Process) Wait(shutdown func(context.Context) error) error {
	log := p.Log.Scope("main")
	log.Info("ready")
	<-p.ctx.Done()
	log.Info("draining", "deadline", p.Options.Drain().String())
	p.Ready.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), p.Options.Drain())
	defer cancel()
	switch err := shutdown(ctx); {
	case errors.Is(err, context.DeadlineExceeded):
		log.Warn("the deadline has passed: what was still in flight is cut off")
	case err != nil:
		log.Warn("shutdown", "error", err)
	}
	return nil
}

// Close ends whatever there is, and returns err or the first error of the group.
// A program that was told to end before it was ready has not failed.
func (p *Process) Close(err error) error {
	// 5 s: what is left of the grace period.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	p.stop()
	if p.feeding != nil {
		p.feeding()
	}
	if p.admin != nil {
		_ = p.admin.Shutdown(ctx) // late scrapes are not worth an error
	}
	failed := p.group.Wait()
	if err == nil || errors.Is(err, context.Canceled) {
		err = failed
	}
	if p.Identity != nil {
		err = errors.Join(err, identity.Close(p.Identity))
	}
	if p.Loops != nil {
		p.Loops.Close()
	}
	if p.Telemetry != nil {
		err = errors.Join(err, p.Telemetry.Shutdown(ctx))
	}
	if err != nil && p.Log != nil {
		p.Log.Scope("main").Error("ended", "error", err)
	} else if p.Log != nil {
		p.Log.Scope("main").Info("ended")
	}
	for _, w := range p.writers {
		err = errors.Join(err, w.Close(ctx))
	}
	return err
}
