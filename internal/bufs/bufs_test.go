package bufs

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
)

func TestGetSizes(t *testing.T) {
	for _, tt := range []struct{ n, size int }{
		{0, Small}, {1, Small}, {Small, Small}, {Small + 1, Large}, {Large, Large}, {10 * Large, Large},
	} {
		before := InUse()
		b := Get(tt.n)
		if len(b.B) != 0 || cap(b.B) != tt.size {
			t.Errorf("Get(%d) has length %d and room for %d, want %d", tt.n, len(b.B), cap(b.B), tt.size)
		}
		if n := InUse() - before; n != int64(tt.size) {
			t.Errorf("Get(%d): %d bytes in use, want %d", tt.n, n, tt.size)
		}
		b.Free()
		if n := InUse() - before; n != 0 {
			t.Errorf("Get(%d) and Free: %d bytes in use", tt.n, n)
		}
	}
}

// Whoever has a buffer may cut B or replace it; the buffer goes back whole.
func TestFreeOfACutBuffer(t *testing.T) {
	before := InUse()
	b := Get(Large)
	b.B = append(b.B, "0123456789"...)[5:]
	b.Free()
	b = Get(Small)
	b.B = append(b.B, make([]byte, 2*Small)...)
	b.Free()
	if n := InUse() - before; n != 0 {
		t.Errorf("%d bytes in use", n)
	}
	for range 100 {
		b := Get(Small)
		defer b.Free()
		if cap(b.B) != Small {
			t.Fatalf("a buffer with room for %d came back", cap(b.B))
		}
	}
}

func TestInUseIsExact(t *testing.T) {
	before := InUse()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for n := range 1000 {
				b := Get(n * 10)
				b.B = append(b.B, 1)
				b.Free()
			}
		})
	}
	wg.Wait()
	if n := InUse() - before; n != 0 {
		t.Errorf("%d bytes in use", n)
	}
}

func TestGetAllocatesNothing(t *testing.T) {
	if checked {
		t.Skip("checks allocate, and the race detector's pools forget")
	}
	n := testing.AllocsPerRun(1000, func() {
		a, b := Get(1), Get(Large)
		a.Free()
		b.Free()
	})
	if n > 0.1 {
		t.Errorf("%v allocations", n)
	}
}

// A Queue behaves as a bytes.Buffer does, and holds no more than it must.
func TestQueueAgainstBuffer(t *testing.T) {
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		script := make([]byte, 200)
		for i := range script {
			script[i] = byte(rnd.Uint32())
		}
		checkQueue(t, script)
	}
}

func FuzzQueue(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7})
	f.Add([]byte{0xff, 0xff, 0xff, 0x00, 0x80, 0x81, 0xff})
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 200 {
			script = script[:200]
		}
		checkQueue(t, script)
	})
}

func checkQueue(t *testing.T, script []byte) {
	t.Helper()
	before := InUse()
	var q Queue
	var want bytes.Buffer
	next := byte(0)
	for i := 0; i+1 < len(script); i += 2 {
		op, n := script[i], int(script[i+1])
		if op&1 == 0 {
			n *= 200 // across the sizes of buffers
		}
		switch {
		case op < 130:
			p := make([]byte, n)
			for j := range p {
				next++
				p[j] = next
			}
			q.Append(p)
			want.Write(p)
		case op < 250:
			n = min(n, q.Len())
			q.Consume(n)
			want.Next(n)
		default:
			q.Clear()
			want.Reset()
		}
		if q.Len() != want.Len() {
			t.Fatalf("Len is %d, want %d", q.Len(), want.Len())
		}
		if front := q.Front(); !bytes.HasPrefix(want.Bytes(), front) || (len(front) == 0) != (want.Len() == 0) {
			t.Fatalf("Front has %d bytes, or other bytes, of %d", len(front), want.Len())
		}
		var all []byte
		q.Each(func(p []byte) { all = append(all, p...) })
		if !bytes.Equal(all, want.Bytes()) {
			t.Fatalf("Each gives %d bytes, or other bytes, of %d", len(all), want.Len())
		}
		// What is consumed of the first and not used of the last is all that it
		// may hold beyond its bytes; a first buffer may be small.
		if held := InUse() - before; held > int64(q.Len())+2*Large || q.Len() == 0 && held != 0 {
			t.Fatalf("%d bytes held for %d", held, q.Len())
		}
	}
	var got []byte
	for q.Len() > 0 {
		p := q.Front()
		got = append(got, p...)
		q.Consume(len(p))
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Fatalf("%d bytes, or other bytes, of %d", len(got), want.Len())
	}
	if q.Front() != nil {
		t.Error("an empty queue has a front")
	}
	if n := InUse() - before; n != 0 {
		t.Errorf("%d bytes were not freed", n)
	}
}

// A head that waits costs a kilobyte; what is longer, the next size beside it.
func TestQueueGrowsInSteps(t *testing.T) {
	before := InUse()
	var q Queue
	for _, step := range []struct{ add, want int }{
		{300, tiny}, {tiny - 300, tiny}, {1, tiny + Small}, {Small - 1, tiny + Small}, {1, tiny + Small + Large},
	} {
		q.Append(make([]byte, step.add))
		if got := InUse() - before; got != int64(step.want) {
			t.Errorf("%d bytes are held in %d, want %d", q.Len(), got, step.want)
		}
	}
	q.Clear()
}

func BenchmarkQueue(b *testing.B) {
	p := make([]byte, 16<<10)
	var q Queue
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		q.Append(p)
		for q.Len() > 0 {
			q.Consume(len(q.Front()))
		}
	}
}
