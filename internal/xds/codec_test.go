package xds

import (
	"bytes"
	"slices"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// whole returns what a response says, as protobuf has it. It uses r up.
func (r *response) whole() *discoveryv3.DeltaDiscoveryResponse {
	out := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: r.typeURL, Nonce: r.nonce, RemovedResources: r.removed}
	r.each(func(w *wireResource) {
		out.Resources = append(out.Resources, &discoveryv3.Resource{
			Name: w.name, Version: string(w.version), Aliases: w.aliases, Resource: &anypb.Any{Value: bytes.Clone(w.value)},
		})
	})
	return out
}

// sameResponse compares what is of use.
func sameResponse(a, b *discoveryv3.DeltaDiscoveryResponse) bool {
	return a.TypeUrl == b.TypeUrl && a.Nonce == b.Nonce && slices.Equal(a.RemovedResources, b.RemovedResources) &&
		slices.EqualFunc(a.Resources, b.Resources, func(x, y *discoveryv3.Resource) bool {
			return x.Name == y.Name && x.Version == y.Version && slices.Equal(x.Aliases, y.Aliases) &&
				string(x.GetResource().GetValue()) == string(y.GetResource().GetValue())
		})
}

// A pieceBuffer is one piece of a message, and whether it was let go of.
type pieceBuffer struct {
	mem.SliceBuffer
	refs *int
}

func (b pieceBuffer) Ref()  { *b.refs++ }
func (b pieceBuffer) Free() { *b.refs-- }

// cut returns a message in pieces of n bytes, and the sum of what is held of them.
func cut(wire []byte, n int) (data mem.BufferSlice, refs *int) {
	refs = new(int)
	for piece := range slices.Chunk(wire, n) {
		*refs++
		data = append(data, pieceBuffer{piece, refs})
	}
	return data, refs
}

func aResponse() *discoveryv3.DeltaDiscoveryResponse {
	return &discoveryv3.DeltaDiscoveryResponse{
		SystemVersionInfo: "s", TypeUrl: AddressType, Nonce: "n", RemovedResources: []string{"a", ""},
		Resources: []*discoveryv3.Resource{
			{Name: "x", Version: "1", Aliases: []string{"/1", "/2"}, Resource: &anypb.Any{TypeUrl: AddressType, Value: []byte("value")}},
			{Name: "none"}, {},
		},
	}
}

func TestCodecReadsResponses(t *testing.T) {
	c := newCodec()
	want := aResponse()
	data, err := c.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	defer data.Free()
	got := &response{nonce: "of another"}
	if err := c.Unmarshal(data, got); err != nil || got.resources != 3 || got.size != data.Len() {
		t.Errorf("got %+v, %v", got, err)
	}
	if got := got.whole(); !sameResponse(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	// What is not a response is gRPC's to read.
	req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: "t"}
	wire, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	again := new(discoveryv3.DeltaDiscoveryRequest)
	if err := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(wire)}, again); err != nil || !proto.Equal(again, req) {
		t.Errorf("got %v, %v", again, err)
	}
	if err := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer{0x12, 0x05}}, got); err == nil {
		t.Error("a response that is cut off was read")
	}
}

// Whatever is a response to protobuf is the same response here.
func FuzzResponse(f *testing.F) {
	wire, err := proto.Marshal(aResponse())
	if err != nil {
		f.Fatal(err)
	}
	for i := range wire {
		f.Add(wire[:i])
	}
	f.Add(wire)
	f.Fuzz(func(t *testing.T, wire []byte) {
		want := new(discoveryv3.DeltaDiscoveryResponse)
		wrong := proto.Unmarshal(wire, want)
		for _, size := range []int{1, 3, 1 << 20} {
			data, refs := cut(slices.Clone(wire), size)
			var r response
			err := r.read(data)
			data.Free()
			if err != nil {
				if *refs != 0 {
					t.Fatalf("%d pieces were held on to", *refs)
				}
				if wrong == nil {
					t.Fatalf("in pieces of %d: %v", size, err)
				}
				continue
			}
			resources := r.resources
			got := r.whole()
			if *refs != 0 || len(got.Resources) != resources {
				t.Fatalf("%d pieces were held on to; %d resources, then %d", *refs, resources, len(got.Resources))
			}
			// Some of what is wrong there is in fields that are of no use here.
			if wrong == nil && !sameResponse(got, want) {
				t.Fatalf("in pieces of %d: got %v, want %v", size, got, want)
			}
		}
	})
}
