package bench

import (
	"bytes"
	"hash/crc32"
	"slices"
	"testing"

	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

func TestContentIsTheSameByOffset(t *testing.T) {
	const n = 200_001
	all := content(n)
	if len(all) != n {
		t.Fatalf("content has %d bytes, want %d", len(all), n)
	}
	for _, offset := range []int64{0, 1, 65535, 65536, 131073} {
		p := contentAt(offset)
		if p = p[:min(int64(len(p)), n-offset)]; !bytes.Equal(p, all[offset:offset+int64(len(p))]) {
			t.Errorf("content from %d on differs", offset)
		}
	}
	if got, want := contentCRC(n), crc32.Checksum(all, castagnoli); got != want {
		t.Errorf("contentCRC is %08x, want %08x", got, want)
	}
}

// The example of RFC 6455, section 1.3.
func TestWebSocketAccept(t *testing.T) {
	if got, want := webSocketAccept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="; got != want {
		t.Errorf("accept is %q, want %q", got, want)
	}
}

// A heard is what a frameReader told.
type heard struct {
	content []byte
	ends    []bool
}

func (h *heard) frame(_ byte, p []byte)  { h.content = append(h.content, p...) }
func (h *heard) frameEnd(_ byte, l bool) { h.ends = append(h.ends, l) }

func TestFramesComeInAnyPieces(t *testing.T) {
	for _, size := range []int64{0, 1, 125, 126, 65535, 65536} {
		for _, step := range []int{1, 3, 4096, 1 << 20} {
			mask := [4]byte{1, 2, 3, 4}
			masked := content(size)
			applyMask(masked, mask, 0)
			wire := append(appendFrameHead(nil, opBinary, size, &mask), masked...)
			wire = append(wire, wire...)
			r, h := frameReader{masked: true}, &heard{}
			for len(wire) > 0 {
				n := min(step, len(wire))
				if err := r.read(wire[:n], make([]byte, 1000), h); err != nil {
					t.Fatalf("%d bytes by %d: %v", size, step, err)
				}
				wire = wire[n:]
			}
			if want := append(content(size), content(size)...); !bytes.Equal(h.content, want) || len(h.ends) != 2 {
				t.Errorf("%d bytes by %d: %d bytes in %d frames, want %d in 2", size, step, len(h.content), len(h.ends), len(want))
			}
		}
	}
}

func TestFramesThatAreRefused(t *testing.T) {
	for name, wire := range map[string][]byte{
		"no mask":              {0x82, 0x01, 'x'},
		"a reserved bit":       {0xc2, 0x81, 0, 0, 0, 0, 'x'},
		"a long ping":          {0x89, 0xfe, 0, 126, 0, 0, 0, 0},
		"a ping in parts":      {0x09, 0x80, 0, 0, 0, 0},
		"an unknown opcode":    {0x83, 0x80, 0, 0, 0, 0},
		"nothing to continue":  {0x80, 0x80, 0, 0, 0, 0},
		"a length below zero":  {0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"a message in another": {0x02, 0x80, 0, 0, 0, 0, 0x82, 0x80, 0, 0, 0, 0},
	} {
		if r := (frameReader{masked: true}); r.read(wire, make([]byte, 10), &heard{}) == nil {
			t.Errorf("%s: read", name)
		}
	}
}

func TestMasksAreAppliedFromAnyOffset(t *testing.T) {
	mask := [4]byte{0x11, 0x32, 0x54, 0x76}
	for n := range int64(40) {
		for offset := range int64(9) {
			got, want := content(n), content(n)
			for i := range want {
				want[i] ^= mask[(offset+int64(i))%4]
			}
			if applyMask(got, mask, offset); !bytes.Equal(got, want) {
				t.Fatalf("%d bytes from %d: got %x, want %x", n, offset, got, want)
			}
		}
	}
}

func requestReader() messageReader {
	return messageReader{payload: payloadInRequest, size: sizeInRequest}
}

func TestMessagesComeInAnyPieces(t *testing.T) {
	var wire []byte
	sizes := []int64{0, 1, 300, 70_000}
	for _, n := range sizes {
		wire = appendRequest(wire, n, content(n))
	}
	for step := 1; step < len(wire); step = step*3 + 1 {
		r := requestReader()
		var got []int64
		for p := wire; len(p) > 0; {
			n := min(step, len(p))
			err := r.read(p[:n], func(m message) error {
				if want := (body{m.size, contentCRC(m.size)}); m.body != want {
					t.Errorf("by %d: got %+v, want %+v", step, m.body, want)
				}
				got = append(got, m.size)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			p = p[n:]
		}
		if !slices.Equal(got, sizes) || r.within() {
			t.Errorf("by %d: messages of %v, want %v", step, got, sizes)
		}
	}
}

func TestMessagesThatAreRefused(t *testing.T) {
	for name, wire := range map[string][]byte{
		"compressed":                   {1, 0, 0, 0, 0},
		"too long":                     {0, 1, 0, 0, 1},
		"a field that ends outside":    {0, 0, 0, 0, 2, 0x1a, 5},
		"a body that ends outside":     {0, 0, 0, 0, 6, 0x1a, 2, 0x12, 4, 'a', 'b'},
		"half a tag":                   {0, 0, 0, 0, 1, 0x80},
		"half a number":                {0, 0, 0, 0, 2, 0x10, 0x80},
		"field 0":                      {0, 0, 0, 0, 2, 0, 0},
		"a group":                      {0, 0, 0, 0, 2, 0x0b, 0x0c},
		"half of eight bytes":          {0, 0, 0, 0, 5, 0x09, 0, 0, 0, 0},
		"a size below zero":            {0, 0, 0, 0, 11, 0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1},
		"a size beyond what is served": {0, 0, 0, 0, 5, 0x10, 0xff, 0xff, 0xff, 0x7f},
	} {
		if r := requestReader(); r.read(wire, func(message) error { return nil }) == nil {
			t.Errorf("%s: read", name)
		}
	}
}

func TestResponseIsHeadAndBody(t *testing.T) {
	for _, n := range []int64{0, 1, 127, 128, 65536} {
		r, got := messageReader{payload: payloadInResponse}, 0
		err := r.read(append(appendResponseHead(nil, n), content(n)...), func(m message) error {
			if want := (body{n, contentCRC(n)}); m.body != want {
				t.Errorf("got %+v, want %+v", m.body, want)
			}
			got++
			return nil
		})
		if err != nil || got != 1 || r.within() {
			t.Errorf("%d: %d messages, %v", n, got, err)
		}
	}
}

func TestRawMessagesComeInAnyPieces(t *testing.T) {
	var wire []byte
	for _, n := range []int64{0, 1, 5000} {
		wire = append(appendRawHead(wire, n, n+1), content(n)...)
	}
	for step := 1; step < len(wire); step = step*3 + 1 {
		var r rawReader
		var got []int64
		for p := wire; len(p) > 0; {
			n := min(step, len(p))
			if err := r.read(p[:n], func(b body, wanted int64) {
				if b.n != wanted-1 || b.crc != contentCRC(b.n) {
					t.Errorf("by %d: %d bytes with %d wanted, CRC %08x", step, b.n, wanted, b.crc)
				}
				got = append(got, wanted)
			}); err != nil {
				t.Fatal(err)
			}
			p = p[n:]
		}
		if len(got) != 3 || r.within() {
			t.Errorf("by %d: %v", step, got)
		}
	}
	if r := (rawReader{}); r.read([]byte{0x7f, 0, 0, 0, 0, 0, 0, 0, 0}, nil) == nil {
		t.Error("a message of 2 GiB is read")
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(appendFrameHead(nil, opBinary, 0, &[4]byte{}), 1)
	f.Add([]byte{0x82, 0xfe, 0, 200, 1, 2, 3, 4, 5}, 3)
	f.Fuzz(func(t *testing.T, wire []byte, step int) {
		step = 1 + (step&0xff)%64
		whole, parts := &heard{}, &heard{}
		a, b := frameReader{masked: true}, frameReader{masked: true}
		errA := a.read(wire, make([]byte, 64), whole)
		var errB error
		for p := wire; len(p) > 0 && errB == nil; {
			n := min(step, len(p))
			errB = b.read(p[:n], make([]byte, 64), parts)
			p = p[n:]
		}
		if (errA == nil) != (errB == nil) || !bytes.Equal(whole.content, parts.content) || len(whole.ends) != len(parts.ends) {
			t.Errorf("in pieces of %d it reads otherwise: %v and %v", step, errA, errB)
		}
	})
}

// FuzzMessages compares with protobuf's own reader what both accept, and holds
// ours to accepting what that does, as far as it means to.
func FuzzMessages(f *testing.F) {
	f.Add(appendRequest(nil, 10, []byte("hello"))[messagePrefix:], 1)
	f.Add([]byte{0x1a, 4, 0x12, 2, 'a', 'b', 0x1a, 0, 0x20, 1, 0x2a, 1, 'x', 0x31, 1, 2, 3, 4, 5, 6, 7, 8}, 2)
	f.Add([]byte{0x12, 1, 'x', 0x1a, 2, 0x10, 7}, 3)
	f.Fuzz(func(t *testing.T, wire []byte, step int) {
		step = 1 + (step&0xff)%64
		wire = append(appendPrefix(nil, len(wire)), wire...)
		read := func(step int) (got message, n int, err error) {
			r := requestReader()
			for p := wire; len(p) > 0 && err == nil; {
				k := min(step, len(p))
				err = r.read(p[:k], func(m message) error { got, n = m, n+1; return nil })
				p = p[k:]
			}
			return got, n, err
		}
		a, n, err := read(len(wire))
		if b, m, err2 := read(step); a != b || n != m || (err == nil) != (err2 == nil) {
			t.Fatalf("in pieces of %d it reads otherwise: %v and %v", step, err, err2)
		}
		if err == nil && n != 1 {
			t.Fatalf("one message is read as %d", n)
		}
		var want grpc_testing.SimpleRequest
		if proto.Unmarshal(wire[messagePrefix:], &want) != nil {
			return
		}
		size := int64(want.GetResponseSize())
		switch {
		case err == nil:
			if b := want.GetPayload().GetBody(); a.size != size || a.body != (body{int64(len(b)), crc32.Checksum(b, castagnoli)}) {
				t.Errorf("got %+v, want %v", a, &want)
			}
		case size >= 0 && size <= maxMessage && !hasGroup(wire[messagePrefix:]):
			t.Errorf("%v is refused", &want)
		}
	})
}

// hasGroup reports whether there is a group in m, or whatever else than fields of
// other kinds; or a size that another overrides.
func hasGroup(m []byte) bool {
	sizes := 0
	for len(m) > 0 {
		number, kind, n := protowire.ConsumeField(m)
		if n < 0 || kind == protowire.StartGroupType {
			return true
		}
		if number == sizeInRequest {
			sizes++
		}
		if _, _, k := protowire.ConsumeTag(m); number == payloadInRequest && kind == protowire.BytesType {
			if p, _ := protowire.ConsumeBytes(m[k:]); hasGroup(p) {
				return true
			}
		}
		m = m[n:]
	}
	return sizes > 1
}

func FuzzRaw(f *testing.F) {
	f.Add(append(appendRawHead(nil, 3, 7), "abc"...), 1)
	f.Add([]byte{0x40, 0, 0, 0, 0, 0, 0, 0, 0}, 2)
	f.Fuzz(func(t *testing.T, wire []byte, step int) {
		step = 1 + (step&0xff)%64
		read := func(step int) (got []body, wanted []int64, err error) {
			var r rawReader
			for p := wire; len(p) > 0 && err == nil; {
				n := min(step, len(p))
				err = r.read(p[:n], func(b body, w int64) { got, wanted = append(got, b), append(wanted, w) })
				p = p[n:]
			}
			return got, wanted, err
		}
		a, wantedA, errA := read(len(wire) + 1)
		b, wantedB, errB := read(step)
		if !slices.Equal(a, b) || !slices.Equal(wantedA, wantedB) || (errA == nil) != (errB == nil) {
			t.Errorf("in pieces of %d it reads otherwise: %v and %v", step, errA, errB)
		}
	})
}

// TestReadingAllocatesNothing holds for what every exchange does.
func TestReadingAllocatesNothing(t *testing.T) {
	const n = 10_000
	mask := [4]byte{9, 8, 7, 6}
	socket := append(appendFrameHead(nil, opBinary, n, &mask), content(n)...)
	call := appendRequest(nil, n, content(n))
	raw := append(appendRawHead(nil, n, n), content(n)...)
	frames, messages, raws := frameReader{masked: true}, requestReader(), rawReader{}
	var head [32]byte
	scratch, deaf := make([]byte, 4096), &deafFrames{}
	got := testing.AllocsPerRun(10, func() {
		for _, half := range [][]byte{socket[:n/2], socket[n/2:]} {
			_ = frames.read(half, scratch, deaf)
		}
		for _, half := range [][]byte{call[:n/2], call[n/2:]} {
			_ = messages.read(half, func(message) error { return nil })
		}
		for _, half := range [][]byte{raw[:n/2], raw[n/2:]} {
			_ = raws.read(half, func(body, int64) {})
		}
		appendResponseHead(head[:0], n)
		appendFrameHead(head[:0], opBinary, n, nil)
		contentCRC(n)
	})
	if got > 0 {
		t.Errorf("%v allocations", got)
	}
}

type deafFrames struct{}

func (*deafFrames) frame(byte, []byte)  {}
func (*deafFrames) frameEnd(byte, bool) {}
