package xds

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/waystone-mesh/waystone/internal/config"
)

// maxMessage is the longest response taken: 200 MiB, as Istio's node tunnel has
// it. A mesh of 200,000 workloads is a third of that.
const maxMessage = 200 << 20

type stream = discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient

// session opens a stream and applies what comes until it ends, and returns why
// it did.
func (s *Source) session(ctx context.Context, store *config.Store) (Ending, error) {
	conn, err := s.o.Istiod.Connect()
	if err != nil {
		return ConnectionError, err
	}
	defer conn.Close()
	var reading sync.WaitGroup
	defer reading.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client := discoveryv3.NewAggregatedDiscoveryServiceClient(conn)
	st, err := client.DeltaAggregatedResources(ctx, grpc.MaxCallRecvMsgSize(maxMessage), grpc.ForceCodecV2(newCodec()))
	if err != nil {
		return ConnectionError, err
	}
	if err := s.subscribe(st); err != nil && !errors.Is(err, io.EOF) { // EOF: Recv knows why
		return Error, err
	}
	in := make(chan received)
	reading.Go(func() { receive(ctx, st, in) })
	for {
		select {
		case r := <-in:
			if r.err != nil {
				return ending(r.err)
			}
			if err := s.take(st, store, &r.response); err != nil && !errors.Is(err, io.EOF) {
				return Error, err
			}
		case <-s.demands.wake:
			if err := s.sendDemands(st); err != nil && !errors.Is(err, io.EOF) {
				return Error, err
			}
		case <-ctx.Done():
			return Complete, ctx.Err()
		}
	}
}

// A received is what the stream gave: a response, or its end.
type received struct {
	response response
	err      error
}

// receive hands over what comes until the stream ends. It does so for as long as
// ctx lasts.
func receive(ctx context.Context, st stream, in chan<- received) {
	for {
		var r received
		r.err = st.RecvMsg(&r.response)
		select {
		case in <- r:
		case <-ctx.Done():
			return
		}
		if r.err != nil {
			return
		}
	}
}

// ending tells what the end of a stream means.
func ending(err error) (Ending, error) {
	if errors.Is(err, io.EOF) {
		return Complete, nil
	}
	st := grpcstatus.Convert(err)
	switch st.Code() {
	case codes.Canceled, codes.DeadlineExceeded, codes.Unknown:
		return Reconnect, err
	case codes.Unavailable:
		m := st.Message()
		switch {
		case strings.Contains(m, "transport is closing"), strings.Contains(m, "goaway"), strings.Contains(m, "GOAWAY"):
			return Reconnect, err
		case strings.Contains(m, "connection error"), strings.Contains(m, "name resolver"):
			return ConnectionError, err
		}
	}
	return Error, err
}

// subscribe begins a stream: with what we have of each type, so that only what
// differs is sent, and what is gone.
func (s *Source) subscribe(st stream) error {
	node, err := s.o.Node.proto()
	if err != nil {
		return err
	}
	for _, sub := range s.types {
		req := &discoveryv3.DeltaDiscoveryRequest{Node: node, TypeUrl: sub.url, InitialResourceVersions: sub.versions()}
		if sub.demanded {
			// There is no way to subscribe to nothing but to do so and take it back.
			req.ResourceNamesSubscribe = append([]string{"*"}, s.demands.all()...)
			req.ResourceNamesUnsubscribe = []string{"*"}
		}
		sub.fresh = true
		if err := st.Send(req); err != nil {
			return err
		}
	}
	return nil
}

// sendDemands subscribes to what has been asked for, and gives up what need not
// be known any more.
func (s *Source) sendDemands(st stream) error {
	drop, add := s.demands.take()
	if len(drop) > 0 {
		err := st.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: AddressType, ResourceNamesSubscribe: []string{nowhere}, ResourceNamesUnsubscribe: drop})
		if err != nil {
			return err
		}
	}
	if len(add) == 0 {
		return nil
	}
	return st.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: AddressType, ResourceNamesSubscribe: add})
}

// take applies a response and answers it.
func (s *Source) take(st stream, store *config.Store, r *response) error {
	i := s.index(r.typeURL)
	if i < 0 {
		s.o.Log.Warn("xds: a response of a type that was not asked for", "type", r.typeURL)
		return st.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.typeURL, ResponseNonce: r.nonce})
	}
	sub, count := s.types[i], &s.counts.of[i]
	count.messages.Add(1)
	count.bytes.Add(uint64(r.size))
	refused, names := sub.apply(store, r)
	count.known.Store(uint64(sub.known.len()))
	if sub.demanded {
		s.demands.answered(names, r.removed)
		if sub.fresh {
			s.demands.resumed()
		}
	}
	sub.fresh = false
	if !s.counts.connected.Swap(true) {
		s.o.Log.Info("xds: connected", "address", s.o.Istiod.Address)
		s.said = ""
	}
	s.o.Log.Debug("xds: received", "type", sub.url, "resources", r.resources, "removed", len(r.removed), "bytes", r.size)
	if sub.synced = true; s.synced() {
		store.Synced()
	}
	answer := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: sub.url, ResponseNonce: r.nonce}
	if len(refused) > 0 {
		count.nacks.Add(1)
		answer.ErrorDetail = &status.Status{Code: int32(codes.InvalidArgument), Message: join(refused)}
		s.o.Log.Error("xds: refused", "type", sub.url, "resources", len(refused), "error", answer.ErrorDetail.Message)
	}
	return st.Send(answer)
}

func (s *Source) index(url string) int {
	for i, sub := range s.types {
		if sub.url == url {
			return i
		}
	}
	return -1
}

// synced reports whether all that is subscribed to whole has been there once.
func (s *Source) synced() bool {
	for _, sub := range s.types {
		if !sub.synced && !sub.demanded {
			return false
		}
	}
	return true
}
