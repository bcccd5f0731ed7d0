package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/waystone-mesh/waystone/internal/mesh"
)

// TraceOptions configure spans.
type TraceOptions struct {
	// Endpoint is the host:port of an OTLP collector (gRPC). With "" there are
	// no spans, and trace context passes through untouched.
	Endpoint string

	// TLS connects to Endpoint with TLS and the system's roots; in a mesh it is
	// mostly the tunnel that protects it.
	TLS bool

	// Percent of the exchanges that come without a decision of their caller's
	// is sampled. 0 is 1, Istio's default; below 0 is none.
	Percent float64

	// Service is the service.name of the spans: "<waypoint>.<namespace>".
	Service string

	// NodeID, if not "", is the node_id attribute, by which Kiali knows a
	// waypoint's spans: "waypoint~<ip>~<pod>.<namespace>~<domain>".
	NodeID string

	// B3 sends X-B3-* even to destinations whose client did not.
	B3 bool
}

// A tracer makes the spans of exchanges. A nil tracer makes none.
type tracer struct {
	// Immutable.
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	sampler  sdktrace.Sampler // for callers who did not decide
	nodeID   string
	b3       bool
}

// newTracer returns a tracer that exports to o.Endpoint, or nil without one.
func newTracer(o TraceOptions, log *slog.Logger) (*tracer, error) {
	if o.Endpoint == "" {
		return nil, nil
	}
	grpc := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(o.Endpoint)}
	if !o.TLS {
		grpc = append(grpc, otlptracegrpc.WithInsecure())
	}
	// It connects when there is something to send; a collector that is not
	// there yet holds nothing up.
	exporter, err := otlptracegrpc.New(context.Background(), grpc...)
	if err != nil {
		return nil, fmt.Errorf("tracing: export to %s: %w", o.Endpoint, err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("exporting spans", "error", err) }))
	return newTracerTo(o, sdktrace.WithBatcher(exporter)), nil
}

func newTracerTo(o TraceOptions, export sdktrace.TracerProviderOption) *tracer {
	percent := o.Percent
	if percent == 0 {
		percent = 1
	}
	ratio := sdktrace.TraceIDRatioBased(max(percent, 0) / 100)
	provider := sdktrace.NewTracerProvider(export,
		sdktrace.WithSampler(sdktrace.ParentBased(ratio)),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", o.Service))))
	return &tracer{provider, provider.Tracer("waystone"), ratio, o.NodeID, o.B3}
}

// start begins the span of rec and writes it into the request.
func (t *tracer) start(rec *HTTP, c Carrier) {
	parent, d := extract(c)
	ctx := context.Background()
	switch {
	case !parent.IsZero():
		if d == undecided { // ours to decide, on the caller's trace ID
			r := t.sampler.ShouldSample(sdktrace.SamplingParameters{ParentContext: ctx, TraceID: parent.ID})
			parent.Sampled = r.Decision == sdktrace.RecordAndSample
		}
		ctx = trace.ContextWithRemoteSpanContext(ctx, parent.context())
	case d != undecided:
		// A decision without a trace: begin one that abides by it.
		root := NewTrace()
		root.Sampled = d == sampled
		ctx = trace.ContextWithRemoteSpanContext(ctx, root.context())
	}
	_, rec.span = t.tracer.Start(ctx, "exchange",
		trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(rec.Start))
	sc := rec.span.SpanContext()
	rec.trace = sc.TraceID()
	inject(c, Trace{sc.TraceID(), sc.SpanID(), sc.IsSampled()}, t.b3)
}

func (t Trace) context() trace.SpanContext {
	c := trace.SpanContextConfig{TraceID: t.ID, SpanID: t.Span, Remote: true}
	if t.Sampled {
		c.TraceFlags = trace.FlagsSampled
	}
	return trace.NewSpanContext(c)
}

// end ends the span of rec, with the attributes that Envoy's spans have. Spans
// are exported later, so strings are copied; one that is not UTF-8 would spoil
// the whole batch.
func (t *tracer) end(rec *HTTP) {
	s := rec.span
	rec.span = nil
	if s.IsRecording() {
		s.SetName(spanName(rec))
		s.SetAttributes(t.attributes(rec)...)
		if rec.Status >= 500 || rec.Status == 0 {
			s.SetStatus(codes.Error, rec.Flag.String())
			s.SetAttributes(attribute.Bool("error", true))
		}
	}
	s.End(trace.WithTimestamp(rec.Start.Add(rec.Duration)))
}

// spanName is that of Istio's decorator: the service and its port.
func spanName(rec *HTTP) string {
	host := rec.ServiceHost.Host
	if rec.Service != nil {
		host = rec.Service.Hostname
	}
	if host == "" {
		return rec.LocalAddr.String() + "/*"
	}
	return host + ":" + strconv.Itoa(int(rec.LocalAddr.Port())) + "/*"
}

func (t *tracer) attributes(rec *HTTP) []attribute.KeyValue {
	var kv []attribute.KeyValue
	add := func(k, v string) {
		if v != "" {
			kv = append(kv, attribute.String(k, strings.Clone(strings.ToValidUTF8(v, "\ufffd"))))
		}
	}
	add("component", "proxy")
	add("node_id", t.nodeID)
	add("http.method", rec.Method)
	add("http.url", "http://"+rec.Authority+rec.Path)
	add("http.protocol", rec.Protocol)
	add("http.status_code", strconv.Itoa(rec.Status))
	add("user_agent", rec.UserAgent)
	add("guid:x-request-id", rec.RequestID)
	add("response_flags", rec.Flag.String())
	add("request_size", strconv.FormatUint(rec.Received, 10))
	add("response_size", strconv.FormatUint(rec.Sent, 10))
	add("upstream_cluster", string(appendCluster(nil, &rec.Cluster, "http")))
	if rec.SourceAddr.IsValid() {
		add("peer.address", rec.SourceAddr.Addr().String())
	}
	if rec.Upstream.IsValid() {
		add("upstream_address", rec.Upstream.String())
	}
	if rec.HasGRPCStatus {
		add("grpc.status_code", strconv.Itoa(rec.GRPCStatus))
	}
	dryRun := func(action string, r *Rehearsal) {
		add("istio.authorization.dry_run."+action+"_policy.name", r.Rule)
		add("istio.authorization.dry_run."+action+"_policy.result", r.Result)
	}
	dryRun("allow", &rec.Decision.DryAllow)
	dryRun("deny", &rec.Decision.DryDeny)
	end := func(side string, w *mesh.Workload) {
		if w != nil {
			add("istio."+side+"_workload", workloadName(w))
			add("istio."+side+"_namespace", w.Namespace)
			add("istio."+side+"_instance_name", w.Name)
			add("istio."+side+"_canonical_service", canonicalName(w))
		}
	}
	end("source", rec.Source)
	end("destination", rec.Dest)
	return kv
}
