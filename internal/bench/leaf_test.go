package bench

import (
	"bytes"
	"hash/crc32"
	"testing"
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

func TestMessagesComeInAnyPieces(t *testing.T) {
	var wire []byte
	sizes := []int64{0, 1, 300, 70_000}
	for _, n := range sizes {
		wire = appendRequest(wire, n, content(n))
	}
	for step := 1; step < len(wire); step = step*3 + 1 {
		var r messageReader
		var got []int64
		for p := wire; len(p) > 0; {
			n := min(step, len(p))
			err := r.read(p[:n], func(m []byte) error {
				size, body, err := parseRequest(m)
				if !bytes.Equal(body, content(size)) {
					t.Errorf("by %d: the body of %d differs", step, size)
				}
				got = append(got, size)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			p = p[n:]
		}
		if len(got) != len(sizes) || r.within() {
			t.Errorf("by %d: messages of %v, want %v", step, got, sizes)
		}
	}
}

func TestResponseIsHeadAndBody(t *testing.T) {
	for _, n := range []int64{0, 1, 127, 128, 65536} {
		m := append(appendResponseHead(nil, n), content(n)...)
		size, err := messageSize(m)
		if err != nil || size != len(m)-messagePrefix {
			t.Errorf("%d: the prefix says %d bytes (%v), want %d", n, size, err, len(m)-messagePrefix)
		}
		if body, err := parseResponse(m[messagePrefix:]); err != nil || !bytes.Equal(body, content(n)) {
			t.Errorf("%d: the body has %d bytes: %v", n, len(body), err)
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

func FuzzMessages(f *testing.F) {
	f.Add(appendRequest(nil, 10, []byte("hello")), 1)
	f.Add([]byte{1, 0, 0, 0, 0}, 2)
	f.Fuzz(func(t *testing.T, wire []byte, step int) {
		step = 1 + (step&0xff)%64
		read := func(step int) (sum uint32, err error) {
			var r messageReader
			for p := wire; len(p) > 0 && err == nil; {
				n := min(step, len(p))
				err = r.read(p[:n], func(m []byte) error {
					sum = crc32.Update(sum, castagnoli, append([]byte{byte(len(m))}, m...))
					if _, body, err := parseRequest(m); err == nil && len(body) > len(m) {
						t.Error("a body is longer than its message")
					}
					_, _ = parseResponse(m)
					return nil
				})
				p = p[n:]
			}
			return sum, err
		}
		sumA, errA := read(len(wire) + 1)
		sumB, errB := read(step)
		if sumA != sumB || (errA == nil) != (errB == nil) {
			t.Errorf("in pieces of %d it reads otherwise: %v and %v", step, errA, errB)
		}
	})
}
