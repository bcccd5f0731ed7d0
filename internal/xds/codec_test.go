package xds

import (
	"slices"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// sameResponse compares what is of use.
func sameResponse(a, b *discoveryv3.DeltaDiscoveryResponse) bool {
	return a.TypeUrl == b.TypeUrl && a.Nonce == b.Nonce && slices.Equal(a.RemovedResources, b.RemovedResources) &&
		slices.EqualFunc(a.Resources, b.Resources, func(x, y *discoveryv3.Resource) bool {
			return x.Name == y.Name && x.Version == y.Version && slices.Equal(x.Aliases, y.Aliases) &&
				string(x.GetResource().GetValue()) == string(y.GetResource().GetValue())
		})
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
	got := &discoveryv3.DeltaDiscoveryResponse{Nonce: "of another"}
	if err := c.Unmarshal(data, got); err != nil || !sameResponse(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
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
		want, got := new(discoveryv3.DeltaDiscoveryResponse), new(discoveryv3.DeltaDiscoveryResponse)
		err := readResponse(slices.Clone(wire), got)
		if proto.Unmarshal(wire, want) != nil {
			return // some of what is wrong there is in fields that are of no use here
		}
		if err != nil || !sameResponse(got, want) {
			t.Fatalf("got %v, %v, want %v", got, err, want)
		}
	})
}
