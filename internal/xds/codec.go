package xds

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// A codec is gRPC's, but for responses, which may be 80 MB: they stay as they
// came, and are read while they are converted.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(grpcproto.Name)} }

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	r, ok := v.(*response)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	if err := r.read(data); err != nil {
		return fmt.Errorf("xds: response: %w", err)
	}
	return nil
}

// A response is a DeltaDiscoveryResponse, as far as it is of use. Its resources
// are still on the wire.
type response struct {
	typeURL, nonce string
	removed        []string
	resources      int // how many
	size           int // bytes

	wire mem.BufferSlice // ours until each has read it
}

// A wireResource is one of them. It is valid until the next is read, but for its
// name.
type wireResource struct {
	name    string
	version []byte
	aliases []string
	value   []byte
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

// read takes over data, which gRPC frees when it has been read: it is held until
// each has gone through it. That all of it can be read is made sure of now, so
// that a response is used whole or not at all.
func (r *response) read(data mem.BufferSlice) error {
	*r = response{size: data.Len(), wire: data}
	in := pieces{left: data}
	err := in.eachField(func(n protowire.Number, v []byte) (err error) {
		switch n {
		case responseResources:
			r.resources++
			err = new(wireResource).read(v, true)
		case responseTypeURL:
			r.typeURL, err = readString(v)
		case responseNonce:
			r.nonce, err = readString(v)
		case responseRemoved:
			var name string
			name, err = readString(v)
			r.removed = append(r.removed, name)
		}
		return err
	})
	if err == nil {
		data.Ref()
	}
	return err
}

// each calls f with every resource, and lets go of the wire as it goes. There is
// only one time.
func (r *response) each(f func(*wireResource)) {
	in := pieces{left: r.wire, free: true}
	r.wire = nil
	var res wireResource
	_ = in.eachField(func(n protowire.Number, v []byte) error { // it could be read before
		if n == responseResources {
			res = wireResource{aliases: res.aliases[:0]}
			_ = res.read(v, false)
			f(&res)
		}
		return nil
	})
}

// read reads a resource; or only looks whether it can be read.
func (r *wireResource) read(wire []byte, check bool) error {
	return eachField(wire, func(n protowire.Number, v []byte) (err error) {
		switch n {
		case resourceVersion:
			r.version = v
		case resourceName:
			if !check {
				r.name = string(v)
			}
		case resourceAliases:
			if !check {
				r.aliases = append(r.aliases, string(v))
			}
		case resourceAny:
			return eachField(v, func(n protowire.Number, v []byte) error {
				if n == anyValue { // what type it is of, the response says
					r.value = v
				}
				return nil
			})
		default:
			return nil
		}
		if check && !utf8.Valid(v) {
			return errUTF8
		}
		return nil
	})
}

func readString(v []byte) (string, error) {
	if !utf8.Valid(v) {
		return "", errUTF8
	}
	return string(v), nil
}

// pieces are a message that came in pieces: in frames of HTTP/2.
type pieces struct {
	left mem.BufferSlice // the first of which is being read
	at   int             // where in it
	free bool            // those that have been read are let go of
	copy []byte          // of what lay in several
}

// eachField calls f with each field that has a length, which is valid until it
// returns. With free, nothing is left.
func (p *pieces) eachField(f func(protowire.Number, []byte) error) error {
	defer p.done()
	for p.more() {
		tag, err := p.varint()
		if err != nil {
			return err
		}
		number, form := protowire.DecodeTag(tag)
		if number < protowire.MinValidNumber {
			return errors.New("a field has no valid number")
		}
		var n uint64
		switch form {
		case protowire.VarintType:
			_, err = p.varint()
		case protowire.Fixed32Type:
			n = 4
		case protowire.Fixed64Type:
			n = 8
		case protowire.BytesType:
			n, err = p.varint()
		case protowire.StartGroupType: // nobody sends one
			return p.restAfterGroup(number, f)
		default:
			err = errors.New("a field is of a form that there is not")
		}
		if err != nil {
			return err
		}
		v, err := p.take(n)
		if err != nil {
			return err
		}
		if form == protowire.BytesType {
			if err := f(number, v); err != nil {
				return err
			}
		}
	}
	return nil
}

// restAfterGroup is eachField after a field that is a group, which is of no use.
func (p *pieces) restAfterGroup(number protowire.Number, f func(protowire.Number, []byte) error) error {
	rest, err := p.take(uint64(p.left.Len() - p.at))
	if err != nil {
		return err
	}
	n := protowire.ConsumeFieldValue(number, protowire.StartGroupType, rest)
	if n < 0 {
		return protowire.ParseError(n)
	}
	return eachField(rest[n:], f)
}

// more moves on to the next byte, and reports whether there is one.
func (p *pieces) more() bool {
	for len(p.left) > 0 {
		if p.at < p.left[0].Len() {
			return true
		}
		if p.free {
			p.left[0].Free()
		}
		p.left, p.at = p.left[1:], 0
	}
	return false
}

// done lets go of what is left.
func (p *pieces) done() {
	if p.free {
		p.left.Free()
		p.left = nil
	}
}

var errShort = errors.New("it is cut off")

func (p *pieces) varint() (uint64, error) {
	var x uint64
	for shift := 0; shift < 64 && p.more(); shift += 7 {
		b := p.left[0].ReadOnlyData()[p.at]
		p.at++
		x |= uint64(b&0x7f) << shift
		if b < 0x80 {
			if shift == 63 && b > 1 {
				return 0, errors.New("a number is too large")
			}
			return x, nil
		}
	}
	return 0, errShort
}

// take returns the next n bytes, valid until the next call of p.
func (p *pieces) take(n uint64) ([]byte, error) {
	if n == 0 || !p.more() {
		if n > 0 {
			return nil, errShort
		}
		return nil, nil
	}
	data := p.left[0].ReadOnlyData()[p.at:]
	if n <= uint64(len(data)) {
		p.at += int(n)
		return data[:n], nil
	}
	p.copy = p.copy[:0]
	for n > 0 && p.more() {
		data := p.left[0].ReadOnlyData()[p.at:]
		data = data[:min(n, uint64(len(data)))]
		p.copy = append(p.copy, data...)
		p.at += len(data)
		n -= uint64(len(data))
	}
	if n > 0 {
		return nil, errShort
	}
	return p.copy, nil
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
