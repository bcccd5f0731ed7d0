package telemetry

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

// OTLPOptions say where the lines of the access log go as log records of
// OpenTelemetry, beside where they are written.
type OTLPOptions struct {
	// Endpoint is the host:port of an OTLP receiver (gRPC). With "" there are no
	// records.
	Endpoint string

	// TLS connects with TLS and the system's roots.
	TLS bool

	// Service is service.name, Node k8s.node.name, of everything that is sent. ""
	// is none.
	Service, Node string

	// Queue is how many bytes of records may wait, 700 or so each. 0 is 4 MiB.
	Queue int

	linger time.Duration                                            // 0 is a second
	pause  time.Duration                                            // after the first try; 0 is a second
	last   time.Duration                                            // for what is left at the end; 0 is 2 s
	dial   func(ctx context.Context, addr string) (net.Conn, error) // nil is gRPC's own
}

// An exporter sends log records to a receiver. They are queued in a Writer as the
// bytes they are on the wire; what does not fit is dropped and counted. Nobody
// waits for a receiver.
type exporter struct {
	// Immutable.
	conn   *grpc.ClientConn
	head   []byte // of ResourceLogs: the Resource
	scope  []byte // of ScopeLogs: the InstrumentationScope
	queue  *Writer
	ctx    context.Context
	cancel context.CancelFunc
	ending chan struct{} // closed: nothing is tried again
	log    *slog.Logger
	pause  time.Duration
	last   time.Duration

	failing bool // owned by the Writer's goroutine: so it was said

	failed, rejected atomic.Uint64 // records
}

const (
	// maxRequest is the size of a request: a quarter of what gRPC takes at most
	// unless it is told otherwise.
	maxRequest = 1 << 20

	exportTimeout = 10 * time.Second
	exportTries   = 5 // over some 15 s: the pause doubles
)

// newExporter returns an exporter to o.Endpoint, or nil without one.
func newExporter(o OTLPOptions, version, cluster string, log *slog.Logger) (*exporter, error) {
	if o.Endpoint == "" {
		return nil, nil
	}
	creds := insecure.NewCredentials()
	if o.TLS {
		creds = credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12})
	}
	dial := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wireCodec{})),
	}
	if o.dial != nil {
		dial = append(dial, grpc.WithContextDialer(o.dial))
	}
	// It connects when there is something to send; a receiver that is not there yet
	// holds nothing up.
	conn, err := grpc.NewClient("passthrough:///"+o.Endpoint, dial...)
	if err != nil {
		return nil, fmt.Errorf("access log: export to %s: %w", o.Endpoint, err)
	}
	x := &exporter{conn: conn, ending: make(chan struct{}), log: log}
	x.pause, x.last = cmp.Or(o.pause, time.Second), cmp.Or(o.last, 2*time.Second)
	x.ctx, x.cancel = context.WithCancel(context.Background())
	x.describe(o, version, cluster)
	x.queue, err = NewWriter(WriterOptions{Output: x, Queue: o.Queue, Linger: cmp.Or(o.linger, time.Second)})
	return x, err
}

// describe makes what is the same in every request.
func (x *exporter) describe(o OTLPOptions, version, cluster string) {
	res := logRecord{field: resourceAttributes}
	res.str("service.name", o.Service)
	res.str("service.version", version)
	res.str("k8s.cluster.name", cluster)
	res.str("k8s.node.name", o.Node)
	x.head = protowire.AppendBytes(protowire.AppendTag(nil, resourceLogsRes, protowire.BytesType), res.b)
	scope := protowire.AppendString(protowire.AppendTag(nil, scopeName, protowire.BytesType), "access")
	x.scope = protowire.AppendBytes(protowire.AppendTag(nil, scopeLogsScope, protowire.BytesType), scope)
}

// Write sends queued records. It is called by the queue's goroutine, and reports
// no error since it counts for itself what is lost.
func (x *exporter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		size, records := someRecords(rest, maxRequest)
		x.export(x.request(rest[:size]), records)
		rest = rest[size:]
	}
	return len(p), nil
}

// someRecords returns how long the records at the beginning of p are that fit in
// most bytes, and how many there are. A longer one is alone.
func someRecords(p []byte, most int) (size, n int) {
	for size < len(p) {
		_, _, k := protowire.ConsumeField(p[size:])
		if k < 0 { // not one of ours: take it all
			return len(p), n + 1
		}
		if n > 0 && size+k > most {
			break
		}
		size, n = size+k, n+1
	}
	return size, n
}

// request returns an ExportLogsServiceRequest. It is made anew: gRPC may hold it
// for longer than the call that sends it.
func (x *exporter) request(records []byte) []byte {
	scopeLogs := len(x.scope) + len(records)
	resourceLogs := len(x.head) + 1 + protowire.SizeBytes(scopeLogs)
	b := make([]byte, 0, 1+protowire.SizeBytes(resourceLogs))
	b = protowire.AppendVarint(protowire.AppendTag(b, requestResourceLogs, protowire.BytesType), uint64(resourceLogs))
	b = append(b, x.head...)
	b = protowire.AppendVarint(protowire.AppendTag(b, resourceLogsScope, protowire.BytesType), uint64(scopeLogs))
	b = append(b, x.scope...)
	return append(b, records...)
}

// export sends a request, several times if the receiver may take it later.
func (x *exporter) export(request []byte, records int) {
	pause := x.pause
	for try := 1; ; try++ {
		rejected, message, err := x.call(request)
		if err == nil {
			x.rejected.Add(min(uint64(max(rejected, 0)), uint64(records)))
			x.tell(rejected > 0, "records", rejected, "message", message)
			return
		}
		if !again(err) || try == exportTries || !x.wait(pause) {
			x.failed.Add(uint64(records))
			x.tell(true, "records", records, "error", err)
			return
		}
		pause *= 2
	}
}

// call returns how many records the receiver has not taken, and why.
func (x *exporter) call(request []byte) (rejected int64, message string, err error) {
	ctx, cancel := context.WithTimeout(x.ctx, exportTimeout)
	defer cancel()
	var answer []byte
	err = x.conn.Invoke(ctx, "/opentelemetry.proto.collector.logs.v1.LogsService/Export", &request, &answer)
	if err != nil {
		return 0, "", err
	}
	rejected, message = parseResponse(answer)
	return rejected, message, nil
}

// again reports whether the protocol asks to try again after err.
func again(err error) bool {
	switch status.Code(err) {
	case codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss, codes.ResourceExhausted:
		return true
	}
	return false
}

// wait reports whether it may be tried again then.
func (x *exporter) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-x.ending:
	case <-x.ctx.Done():
	}
	return false
}

// tell says that records were lost, until some have not been.
func (x *exporter) tell(lost bool, about ...any) {
	if lost && !x.failing {
		x.log.Warn("access log records were not exported", about...)
	}
	x.failing = lost
}

// close sends what waits, once, and ends the exporter.
func (x *exporter) close(ctx context.Context) error {
	if x == nil {
		return nil
	}
	close(x.ending)
	ctx, cancel := context.WithTimeout(ctx, x.last)
	defer cancel()
	defer context.AfterFunc(ctx, x.cancel)()
	late := x.queue.Close(ctx) != nil
	x.cancel()
	if late { // its goroutine does not wait for the receiver any more
		_ = x.queue.Close(context.Background())
	}
	return x.conn.Close()
}

// parseResponse reads an ExportLogsServiceResponse. What it does not know or
// understand says nothing.
func parseResponse(p []byte) (rejected int64, message string) {
	each(p, func(n protowire.Number, _ uint64, p []byte) {
		if n != responsePartial {
			return
		}
		each(p, func(n protowire.Number, v uint64, p []byte) {
			switch n {
			case partialRejected:
				rejected = int64(v)
			case partialMessage:
				message = string(valid(p))
			}
		})
	})
	return rejected, message
}

// each calls f with the number and value, of the varints and strings of a message.
func each(p []byte, f func(n protowire.Number, v uint64, p []byte)) {
	for len(p) > 0 {
		n, typ, k := protowire.ConsumeTag(p)
		if k < 0 {
			return
		}
		size := protowire.ConsumeFieldValue(n, typ, p[k:])
		if size < 0 {
			return
		}
		switch value := p[k : k+size]; typ {
		case protowire.VarintType:
			v, _ := protowire.ConsumeVarint(value)
			f(n, v, nil)
		case protowire.BytesType:
			b, _ := protowire.ConsumeBytes(value)
			f(n, 0, b)
		}
		p = p[k+size:]
	}
}

// wireCodec has gRPC send and take messages as the bytes they are: *[]byte.
type wireCodec struct{}

func (wireCodec) Marshal(v any) (mem.BufferSlice, error) {
	p, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("%T is not bytes", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*p)}, nil
}

func (wireCodec) Unmarshal(data mem.BufferSlice, v any) error {
	p, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("%T is not bytes", v)
	}
	*p = data.Materialize()
	return nil
}

// Name is what is on the wire: protobuf.
func (wireCodec) Name() string { return "proto" }
