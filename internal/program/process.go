package program

import (
	"context"
	"errors"
	"fmt"
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
	"github.com/waystone-mesh/waystone/internal/xds"
	"github.com/waystone-mesh/waystone/telemetry"
)

// A process is what stands around a data path. Its methods are called in the
// order in which they stand here.
type process struct {
	options *options
	ctx     context.Context // done when the program is to end
	stop    context.CancelFunc
	group   *errgroup.Group // the first error of its functions ends ctx
	feeding context.CancelFunc

	writers   []*telemetry.Writer
	log       *telemetry.Log
	telemetry *telemetry.Telemetry
	loops     *loop.Group
	store     *config.Store
	source    feeder
	files     *file.Source // the source, if it is of files
	identity  identity.Source
	ready     admin.Ready
	admin     *admin.Server

	recent   *decisions.Recent     // shown by admin; nil: nothing is
	reopened func(context.Context) // has further logs reopened; nil: there are none
}

// A feeder has the store say what it reads, until ctx ends.
type feeder interface {
	Run(context.Context, *config.Store) error
}

// newProcess returns a process that ends when ctx does, or when a function of its
// group fails.
func newProcess(ctx context.Context, o *options) *process {
	p := &process{options: o}
	ctx, p.stop = context.WithCancel(ctx)
	p.group, p.ctx = errgroup.WithContext(ctx)
	return p
}

// open opens a log.
func (p *process) open(path string) (*telemetry.Writer, error) {
	w, err := telemetry.NewWriter(telemetry.WriterOptions{Path: path})
	if err == nil {
		p.writers = append(p.writers, w)
	}
	return w, err
}

// report starts the log and telemetry; t says what differs between programs.
func (p *process) report(t telemetry.Options) error {
	o := p.options
	w, err := p.open(o.logOutput)
	if err != nil {
		return err
	}
	if p.log, err = telemetry.NewLog(telemetry.LogOptions{Output: w, JSON: o.logJSON, Level: o.logLevel}); err != nil {
		return fmt.Errorf("flag --log-level: %q: %w", o.logLevel, err)
	}
	if p.loops, err = loop.NewGroup(o.loops, loop.Options{CryptoTLS: o.cryptoTLS}); err != nil {
		return err
	}
	live := &living{snapshot: p.snapshot}
	t.Version, t.ClusterID, t.Live, t.Log = dump.Build().Version, o.clusterID, live.has, p.log
	t.Trace.Endpoint, t.Trace.TLS, t.Trace.Percent = o.collector.address, o.collector.tls, o.sampling
	if o.sampling == 0 {
		t.Trace.Percent = -1
	}
	p.telemetry, err = telemetry.New(t)
	return err
}

func (p *process) snapshot() *config.Snapshot { return p.store.Snapshot() }

// know makes the store, with the view that c asks for, what will feed it, and the
// identity source.
func (p *process) know(c config.Options) (err error) {
	o := p.options
	files := file.Options{
		Path: o.config, MeshConfig: o.meshConfig, Logger: p.log.Scope("config"),
		Manifest: manifest.Options{
			ClusterDomain: o.clusterDomain, ClusterID: o.clusterID, Network: o.network,
			MeshNamespace: o.rootNamespace, Revision: o.revision,
			ByLabel: true, // there is no node agent beside a directory of files
		},
	}
	o.adopt(file.Mesh(files))
	files.Manifest.TrustDomain, files.Manifest.RootNamespace = o.trustDomain, o.rootNamespace
	c.TrustDomain, c.RootNamespace = o.trustDomain, o.rootNamespace
	if o.given("trust-domain-alias") {
		c.Aliases = append([]string{}, o.aliases...)
	}
	c.Network, c.ClusterID, c.Node, c.Compat118 = o.network, o.clusterID, o.node, o.compat118
	p.store = config.NewStore(c)
	files.OnRead = p.compareMesh(files.Manifest.MeshNamespace)
	if o.istiod.address == "" {
		p.files = file.New(files)
		p.source = p.files
	} else if p.source, err = p.fromIstiod(os.Environ()); err != nil {
		return err
	}
	p.identity, err = identity.Open(o.identity, identity.Options{
		TrustDomain: o.trustDomain, Aliases: o.aliases, Log: p.log.Scope("identity"),
		Istiod: o.ca(), Impersonate: o.istiod.impersonate, TTL: o.istiod.ttl,
	})
	if err != nil {
		return fmt.Errorf("flag --identity: %w", err)
	}
	r := telemetry.Readings{
		RejectedResources: func() int { return len(p.store.Rejected()) },
		Publishes:         func() uint64 { return p.snapshot().Version() },
		BufferBytes:       bufs.InUse,
	}
	p.readings(&r)
	if s, ok := p.source.(*xds.Source); ok {
		r.XDS = func() telemetry.XDS { return xdsReadings(s.Stats()) }
	}
	return p.telemetry.Watch(r)
}

// answer serves administration, metrics and readiness.
func (p *process) answer(configDump func() any) (err error) {
	o := p.options
	a := admin.Options{
		Admin: o.admin, Metrics: o.metrics, Health: o.readiness,
		Ready: &p.ready, Gatherer: p.telemetry.Metrics(), Log: p.log, ConfigDump: configDump,
		Loops: p.showLoops, Quit: p.stop,
	}
	if p.recent != nil {
		a.Recent = p.recent.Query
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
func (p *process) reopen() error {
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
					p.log.Scope("log").Error("log was not reopened", "error", err)
				}
			}
			if p.reopened != nil {
				p.reopened(p.ctx)
			}
		}
	}
}

// feed starts the source of configuration and waits until everything that there
// was has been read. The source goes on until the data path has drained.
func (p *process) feed() error {
	done := p.ready.Task("configuration")
	defer postponeGC()()
	var ctx context.Context
	ctx, p.feeding = context.WithCancel(context.WithoutCancel(p.ctx))
	p.group.Go(func() error { return p.source.Run(ctx, p.store) })
	select {
	case <-p.store.Ready():
		done()
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

// svid waits until there is a certificate for id.
func (p *process) svid(id identity.ID) error {
	defer p.ready.Task("certificate of " + id.String())()
	if source, ok := p.identity.(prefetcher); ok {
		source.Prefetch(id)
	}
	said := ""
	for {
		_, err := p.identity.Certificate(p.ctx, id)
		switch {
		case err == nil:
			return nil
		case p.ctx.Err() != nil:
			return context.Cause(p.ctx)
		case err.Error() != said:
			said = err.Error()
			p.log.Scope("identity").Warn("waiting for the certificate", "identity", id.String(), "error", err)
		}
		select {
		case <-p.ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// dialFrom returns how connections are made: from ip, if it is valid and nobody
// asks for another address.
func dialFrom(ip netip.Addr) func(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
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

// wait returns when the program has been told to end and has: shutdown drains the
// data path.
func (p *process) wait(shutdown func(context.Context) error) error {
	log := p.log.Scope("main")
	log.Info("ready")
	<-p.ctx.Done()
	log.Info("draining", "deadline", p.options.drain().String())
	p.ready.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), p.options.drain())
	defer cancel()
	switch err := shutdown(ctx); {
	case errors.Is(err, context.DeadlineExceeded):
		log.Warn("the deadline has passed: what was still in flight is cut off")
	case err != nil:
		log.Warn("shutdown", "error", err)
	}
	return nil
}

// close ends whatever there is, and returns err or the first error of the group.
// A program that was told to end before it was ready has not failed.
func (p *process) close(err error) error {
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
	if p.identity != nil {
		err = errors.Join(err, identity.Close(p.identity))
	}
	if p.loops != nil {
		p.loops.Close()
	}
	if p.telemetry != nil {
		err = errors.Join(err, p.telemetry.Shutdown(ctx))
	}
	if err != nil && p.log != nil {
		p.log.Scope("main").Error("ended", "error", err)
	} else if p.log != nil {
		p.log.Scope("main").Info("ended")
	}
	for _, w := range p.writers {
		err = errors.Join(err, w.Close(ctx))
	}
	return err
}
