package program

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/spf13/pflag"
	collector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/grpc"

	"github.com/waystone-mesh/waystone/internal/flags"
	"github.com/waystone-mesh/waystone/internal/mesh"
	"github.com/waystone-mesh/waystone/internal/program/programtest"
	"github.com/waystone-mesh/waystone/telemetry"
)

// A receiver takes log records over gRPC.
type receiver struct {
	collector.UnimplementedLogsServiceServer
	got chan *collector.ExportLogsServiceRequest
}

func (r *receiver) Export(_ context.Context, req *collector.ExportLogsServiceRequest) (*collector.ExportLogsServiceResponse, error) {
	r.got <- req
	return &collector.ExportLogsServiceResponse{}, nil
}

// TestAccessLogGoesToReceiver: what a node tunnel reports arrives where its flag, or
// the environment, says, with who and where it is; at the end at the latest.
func TestAccessLogGoesToReceiver(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{got: make(chan *collector.ExportLogsServiceRequest, 1)}
	srv := grpc.NewServer()
	collector.RegisterLogsServiceServer(srv, r)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	defer func() { srv.Stop(); <-served }()

	_, args := programtest.Quiet(t)
	var o Options
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	o.Define(set, telemetry.Ztunnel)
	env := map[string]string{"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://" + ln.Addr().String(), "NODE_NAME": "node-1"}
	if err := errors.Join(set.Parse(args), flags.FromEnvironment(set, programtest.Lookup(env))); err != nil {
		t.Fatal(err)
	}
	p := New(t.Context(), &o)
	if err := p.Report(telemetry.Options{Program: telemetry.Ztunnel}); err != nil {
		t.Fatal(err)
	}
	rec := telemetry.TCP{Ends: telemetry.Ends{Reporter: telemetry.BySource, Source: &mesh.Workload{Name: "web"}}}
	p.Telemetry.Open(&rec)
	p.Telemetry.Close(&rec)
	if err := p.Close(nil); err != nil {
		t.Fatal(err)
	}
	select {
	case req := <-r.got:
		attributes := map[string]string{}
		for _, kv := range append(req.ResourceLogs[0].Resource.Attributes, req.ResourceLogs[0].ScopeLogs[0].LogRecords[0].Attributes...) {
			attributes[kv.Key] = kv.Value.GetStringValue()
		}
		for k, want := range map[string]string{"service.name": "ztunnel", "k8s.node.name": "node-1", "src.workload": "web", "direction": "outbound"} {
			if attributes[k] != want {
				t.Errorf("%s is %q, want %q", k, attributes[k], want)
			}
		}
	case <-time.After(time.Minute):
		t.Fatal("nothing arrived")
	}
}
