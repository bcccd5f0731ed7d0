package telemetry

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Readings are what the rest of a program knows about itself and a scrape asks
// for. A nil one is not exported. All are called concurrently.
type Readings struct {
	RejectedResources func() int    // resources of which the last version did not compile
	Publishes         func() uint64 // snapshots published
	BufferBytes       func() int64  // held in pooled buffers
	Sockets           func() int    // connections open, of every kind

	LoopStalls func() uint64        // batches that held a loop for 10 ms or longer
	LoopHangs  func() uint64        // those that did for 1 s or longer, which are logged
	LoopBusy   func() time.Duration // that loops were not waiting, all together
	LoopLag    func() time.Duration // how long the batch has been running that has been running longest

	XDS func() XDS // the stream that the configuration comes by
}

// Watch exports readings. It is called once.
func (t *Telemetry) Watch(r Readings) error {
	var list []prometheus.Collector
	if r.RejectedResources != nil {
		list = append(list, gauge("waystone_config_rejected_resources",
			"Resources whose last version was rejected.", func() float64 { return float64(r.RejectedResources()) }))
	}
	if r.Publishes != nil {
		list = append(list, count("waystone_config_publishes_total",
			"Snapshots of the configuration published.", r.Publishes))
	}
	if r.BufferBytes != nil {
		list = append(list, gauge("waystone_buffer_bytes",
			"Bytes of pooled buffers in use.", func() float64 { return float64(r.BufferBytes()) }))
	}
	if r.Sockets != nil {
		list = append(list, gauge("waystone_sockets",
			"Connections open, of every kind.", func() float64 { return float64(r.Sockets()) }))
	}
	if r.LoopStalls != nil {
		list = append(list, count("waystone_loop_stalls_total",
			"Batches that held a loop for 10 ms or longer.", r.LoopStalls))
	}
	if r.LoopHangs != nil {
		list = append(list, count("waystone_loop_hangs_total",
			"Batches that held a loop for 1 s or longer: the log says where.", r.LoopHangs))
	}
	if r.LoopBusy != nil {
		list = append(list, prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "waystone_loop_busy_seconds_total", Help: "Time that loops were not waiting, all together.",
		}, func() float64 { return r.LoopBusy().Seconds() }))
	}
	if r.LoopLag != nil {
		list = append(list, gauge("waystone_loop_lag_seconds",
			"For how long the batch has been running that has been running longest.", func() float64 { return r.LoopLag().Seconds() }))
	}
	if r.XDS != nil {
		list = append(list, xdsFamilies(r.XDS)...)
	}
	return t.registerAll(list)
}

// ProxyPending reports that a workload is there which a node tunnel does not
// serve yet; ProxyStarted, that it serves one, which was pending; ProxyForgotten,
// that one is gone which was still pending; ProxyStopped, that it has ceased to
// serve one.
func (t *Telemetry) ProxyPending() { t.pending.Add(1) }

// ProxyStarted is explained at [Telemetry.ProxyPending].
func (t *Telemetry) ProxyStarted() {
	t.pending.Add(-1)
	t.active.Add(1)
	t.started.Add(1)
}

// ProxyForgotten is explained at [Telemetry.ProxyPending].
func (t *Telemetry) ProxyForgotten() { t.pending.Add(-1) }

// ProxyStopped is explained at [Telemetry.ProxyPending].
func (t *Telemetry) ProxyStopped() {
	t.active.Add(-1)
	t.stopped.Add(1)
}

// register registers every family that is there from the start.
func (t *Telemetry) register(o Options) error {
	list := []prometheus.Collector{
		t.table,
		t.tally,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		gaugeWith("istio_build", "The Istio version this stands in for.",
			prometheus.Labels{"component": string(o.Program), "tag": o.Version}, func() float64 { return 1 }),
		gauge("waystone_telemetry_series", "Sets of labels that are counted in.",
			func() float64 { return float64(t.table.len() + t.tally.len() + t.questions.len() + t.lookups.len()) }),
		count("waystone_telemetry_series_overflow_total", "Times that a record found no room for labels of its own.",
			func() uint64 {
				return t.table.overflowed.Load() + t.tally.overflowed.Load() + t.questions.overflowed.Load() + t.lookups.overflowed.Load()
			}),
		count("waystone_hbone_handshake_failures_total", "Incoming connections whose TLS handshake failed.",
			t.handshakes.Load),
	}
	if o.AccessLog != nil {
		list = append(list, dropped("access", o.AccessLog.Dropped, o.AccessLog.Failed)...)
	}
	if x := t.exporter; x != nil {
		list = append(list, dropped("otlp", x.queue.Dropped, x.failed.Load)...)
		list = append(list, lost("otlp", "rejected", x.rejected.Load))
	}
	if o.Log != nil {
		if w, ok := o.Log.out.(*Writer); ok && w != o.AccessLog {
			list = append(list, dropped("program", w.Dropped, w.Failed)...)
		}
	}
	list = append(list, t.revoked.families()...)
	if o.Program == Ztunnel {
		list = append(list, t.tunnelFamilies()...)
	}
	return t.registerAll(list)
}

func (t *Telemetry) registerAll(list []prometheus.Collector) error {
	var errs []error
	for _, c := range list {
		errs = append(errs, t.registry.Register(c))
	}
	return errors.Join(errs...)
}

// tunnelFamilies are those that only ztunnel has.
func (t *Telemetry) tunnelFamilies() []prometheus.Collector {
	var list []prometheus.Collector
	for _, r := range []Reporter{BySource, ByDestination} {
		open := &t.sockets[r]
		list = append(list, gaugeWith("istio_tcp_sockets_open", "Connections open: of a destination, tunnels, of which some share a socket.",
			prometheus.Labels{"reporter": r.String()}, func() float64 { return float64(open.Load()) }))
	}
	return append(list, t.questions, t.lookups,
		gauge("workload_manager_active_proxy_count", "Workloads that are served.",
			func() float64 { return float64(t.active.Load()) }),
		gauge("workload_manager_pending_proxy_count", "Workloads that are not served yet.",
			func() float64 { return float64(t.pending.Load()) }),
		count("workload_manager_proxies_started_total", "Workloads that began to be served.", t.started.Load),
		count("workload_manager_proxies_stopped_total", "Workloads that ceased to be served.", t.stopped.Load),
	)
}

// dropped are the lines that a log lost, by the reason.
func dropped(log string, full, failed func() uint64) []prometheus.Collector {
	return []prometheus.Collector{lost(log, "full", full), lost(log, "error", failed)}
}

func lost(log, reason string, f func() uint64) prometheus.Collector {
	return countWith("waystone_log_dropped_lines_total", "Log lines lost.", prometheus.Labels{"log": log, "reason": reason}, f)
}

func gauge(name, help string, f func() float64) prometheus.Collector {
	return gaugeWith(name, help, nil, f)
}

func gaugeWith(name, help string, labels prometheus.Labels, f func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, f)
}

func count(name, help string, f func() uint64) prometheus.Collector {
	return countWith(name, help, nil, f)
}

func countWith(name, help string, labels prometheus.Labels, f func() uint64) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels},
		func() float64 { return float64(f()) })
}
