package xds

import (
	"errors"
	"fmt"
	"unicode/utf8"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"
)

// A codec is gRPC's, but for responses: their resources are views of the message,
// which may be 80 MB. Copied, they would be there twice while they are converted.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(grpcproto.Name)} }

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	r, ok := v.(*discoveryv3.DeltaDiscoveryResponse)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	if err := readResponse(data.Materialize(), r); err != nil {
		return fmt.Errorf("xds: response: %w", err)
	}
	return nil
}

// The fields of the messages of discovery.proto that are of use.
const (
	responseResources protowire.Number = 2
	responseTypeURL   protowire.Number = 4
	responseNonce     protowire.Number = 5
	responseRemoved   protowire.Number = 6

	resourceVersion protowire.Number = 1
	resourceAny     protowire.Number = 2
	resourceName    protowire.Number = 3
	resourceAliases protowire.Number = 4

	anyValue protowire.Number = 2
)

var errUTF8 = errors.New("a string is not UTF-8")

// readResponse reads what is of use of a response. The values of its resources
// are views of wire; names are not, for they are kept.
func readResponse(wire []byte, r *discoveryv3.DeltaDiscoveryResponse) error {
	r.Reset()
	return eachField(wire, func(n protowire.Number, v []byte) (err error) {
		switch n {
		case responseResources:
			res := new(discoveryv3.Resource)
			r.Resources = append(r.Resources, res)
			return readResource(v, res)
		case responseTypeURL:
			r.TypeUrl, err = readString(v)
		case responseNonce:
			r.Nonce, err = readString(v)
		case responseRemoved:
			var name string
			name, err = readString(v)
			r.RemovedResources = append(r.RemovedResources, name)
		}
		return err
	})
}

func readResource(wire []byte, r *discoveryv3.Resource) error {
	return eachField(wire, func(n protowire.Number, v []byte) (err error) {
		switch n {
		case resourceVersion:
			r.Version, err = readString(v)
		case resourceName:
			r.Name, err = readString(v)
		case resourceAliases:
			var alias string
			alias, err = readString(v)
			r.Aliases = append(r.Aliases, alias)
		case resourceAny:
			if r.Resource == nil {
				r.Resource = new(anypb.Any)
			}
			return eachField(v, func(n protowire.Number, v []byte) error {
				if n == anyValue { // what type it is of, the response says
					r.Resource.Value = v
				}
				return nil
			})
		}
		return err
	})
}

func readString(v []byte) (string, error) {
	if !utf8.Valid(v) {
		return "", errUTF8
	}
	return string(v), nil
}

// eachField calls f with each field of a message that has a length: nothing of
// use has another form.
func eachField(wire []byte, f func(protowire.Number, []byte) error) error {
	for len(wire) > 0 {
		number, form, n := protowire.ConsumeTag(wire)
		if n < 0 {
			return protowire.ParseError(n)
		}
		wire = wire[n:]
		if form != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, form, wire); n < 0 {
				return protowire.ParseError(n)
			}
			wire = wire[n:]
			continue
		}
		v, n := protowire.ConsumeBytes(wire)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := f(number, v); err != nil {
			return err
		}
		wire = wire[n:]
	}
	return nil
}
