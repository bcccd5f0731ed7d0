package record

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
)

func TestThereAndBack(t *testing.T) {
	for _, su := range suites {
		t.Run(su.name, func(t *testing.T) {
			client, server := pair(t, su.id)
			for _, n := range []int{1, 15, 16, 17, 1000, MaxContent - 1, MaxContent, MaxContent + 1, 100_000} {
				want := bytes.Repeat([]byte("0123456789a"), n/11+1)[:n]
				for _, d := range [][2]*Conn{{client, server}, {server, client}} {
					sealed := mustSeal(t, d[0], want)
					if k := (n + MaxContent - 1) / MaxContent; len(sealed) != n+k*(headerSize+1+tagSize) {
						t.Errorf("%d bytes are sealed into %d", n, len(sealed))
					}
					got, err := openAll(d[1], sealed)
					if err != nil || !bytes.Equal(got, want) {
						t.Fatalf("%d bytes: got %d, %v", n, len(got), err)
					}
				}
			}
		})
	}
}

// RFC 8448, section 3: the client's first two records.
func TestVectors(t *testing.T) {
	var s Secrets
	s.client.parse([]byte("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5"))
	s.server.parse([]byte("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643"))
	state := &tls.ConnectionState{Version: tls.VersionTLS13, HandshakeComplete: true, CipherSuite: tls.TLS_AES_128_GCM_SHA256}
	content := make([]byte, 50)
	for i := range content {
		content[i] = byte(i)
	}
	want, err := hex.DecodeString("1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4" +
		"1703030013c9872760655666b74d7ff1153efd6db6d0b0e3")
	if err != nil {
		t.Fatal(err)
	}
	client := New(state, &s, false)
	if got := client.Close(mustSeal(t, client, content)); !bytes.Equal(got, want) {
		t.Errorf("sealed\n%x, want\n%x", got, want)
	}
	got, err := openAll(New(state, &s, true), want)
	if !bytes.Equal(got, content) || !errors.Is(err, io.EOF) {
		t.Errorf("opened %x, %v", got, err)
	}
}

func TestOpenInPlace(t *testing.T) {
	client, server := aesPair(t)
	for _, n := range []int{1, 100, MaxContent} {
		want := bytes.Repeat([]byte{7}, n)
		p := mustSeal(t, client, want)
		k, used, err := server.Open(p[headerSize:], p)
		if err != nil || used != len(p) || !bytes.Equal(p[headerSize:headerSize+k], want) {
			t.Errorf("%d bytes: %d, %d, %v", n, k, used, err)
		}
	}
}

func TestNothingIsAllocated(t *testing.T) {
	client, server := aesPair(t)
	p, sealed, dst := make([]byte, 3*MaxContent), make([]byte, 0, 60_000), make([]byte, Room)
	if n := testing.AllocsPerRun(100, func() {
		var err error
		if sealed, err = client.Seal(sealed[:0], p); err != nil {
			t.Fatal(err)
		}
		for src := sealed; len(src) > 0; {
			_, used, err := server.Open(dst, src)
			if err != nil {
				t.Fatal(err)
			}
			src = src[used:]
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// Nothing is said about a record before its last byte is there, unless its
// header is enough to refuse it.
func TestWhole(t *testing.T) {
	client, server := aesPair(t)
	p := mustSeal(t, client, []byte("hello"))
	for i := range p {
		n, used, err := server.Open(make([]byte, Room), p[:i])
		if n != 0 || used != 0 || err != nil || server.Whole(p[:i]) {
			t.Fatalf("%d bytes of %d: %d, %d, %v", i, len(p), n, used, err)
		}
	}
	if !server.Whole(p) || !server.Whole(append(p, 1, 2, 3)) || !server.Whole([]byte{typeContent, 3, 3, 0xff, 0xff}) {
		t.Error("not whole")
	}
}

func TestHeaderIsRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		head []byte
		want tls.AlertError
	}{
		"change_cipher_spec": {[]byte{20, 3, 3, 0, 1}, alertUnexpected},
		"alert in the clear": {[]byte{21, 3, 3, 0, 2}, alertUnexpected},
		"handshake":          {[]byte{22, 3, 3, 0, 40}, alertUnexpected},
		"HTTP":               {[]byte("GET /"), alertUnexpected},
		"too long":           {[]byte{23, 3, 3, 0x41, 1}, alertRecordOverflow},
		"no room for a tag":  {[]byte{23, 3, 3, 0, 15}, alertBadRecordMAC},
	} {
		t.Run(name, func(t *testing.T) {
			client, server := aesPair(t)
			n, used, err := server.Open(make([]byte, Room), tt.head)
			if n != 0 || used != 0 {
				t.Errorf("%d, %d", n, used)
			}
			wantRefused(t, server, client, err, tt.want)
		})
	}
}

// What is changed anywhere, even in the version, is refused, and nothing of it is
// delivered.
func TestEveryByteIsProtected(t *testing.T) {
	for _, su := range suites {
		t.Run(su.name, func(t *testing.T) {
			size := len("content") + headerSize + 1 + tagSize
			for i := range size {
				for _, flip := range []byte{1, 0x80} {
					client, server := pair(t, su.id)
					p := mustSeal(t, client, []byte("content"))
					p[i] ^= flip
					want := alertBadRecordMAC
					switch {
					case i == 0:
						want = alertUnexpected
					case i == 3 && flip == 0x80:
						want = alertRecordOverflow
					case i == 3 || i == 4: // longer: then what follows belongs to it
						p = append(p, make([]byte, maxCiphertext)...)
					}
					got, err := openAll(server, p)
					if len(got) > 0 {
						t.Errorf("byte %d changed: opened %q", i, got)
					}
					wantRefused(t, server, client, err, want)
				}
			}
		})
	}
}

func TestOrderIsProtected(t *testing.T) {
	for name, order := range map[string][]int{
		"replayed": {0, 0}, "reordered": {1}, "dropped": {0, 2}, "reflected": {-1},
	} {
		t.Run(name, func(t *testing.T) {
			client, server := aesPair(t)
			records := [][]byte{mustSeal(t, client, []byte("a")), mustSeal(t, client, []byte("b")), mustSeal(t, client, []byte("c"))}
			var err error
			for i, k := range order {
				p := records[max(k, 0)]
				if k < 0 {
					p = mustSeal(t, server, []byte("a"))
					client.in.seq++ // it never gets there
				}
				if _, err = openAll(server, p); (err != nil) != (i == len(order)-1) {
					t.Fatalf("record %d: %v", k, err)
				}
			}
			wantRefused(t, server, client, err, alertBadRecordMAC)
		})
	}
}

func TestSequenceNumberDoesNotWrap(t *testing.T) {
	client, server := aesPair(t)
	client.out.seq, server.in.seq = math.MaxUint64-1, math.MaxUint64-1
	server.asked = true // the peer does not do as it is asked
	if got, err := openAll(server, client.seal(nil, typeContent, []byte("last"))); string(got) != "last" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	_, err := openAll(server, client.seal(nil, typeContent, []byte("one more")))
	client.out.seq = 0
	wantRefused(t, server, client, err, alertInternal)
}

func TestClose(t *testing.T) {
	client, server := aesPair(t)
	p := client.Close(mustSeal(t, client, []byte("bye")))
	if again := client.Close(nil); len(again) > 0 {
		t.Error("close_notify is sent twice")
	}
	if b, err := client.Seal(nil, []byte("late")); len(b) > 0 || !errors.Is(err, ErrEnded) {
		t.Errorf("Seal after Close: %d bytes, %v", len(b), err)
	}
	got, err := openAll(server, append(p, "whatever"...))
	if string(got) != "bye" || !errors.Is(err, io.EOF) {
		t.Errorf("%q, %v", got, err)
	}
	// The other direction is open.
	if got, err := openAll(client, mustSeal(t, server, []byte("answer"))); string(got) != "answer" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if server.Owes() || client.Owes() {
		t.Error("something is owed")
	}
}

func TestClear(t *testing.T) {
	client, server := aesPair(t)
	p := mustSeal(t, client, []byte("x"))
	server.Clear()
	if server.in != (half{}) || server.out != (half{}) {
		t.Error("something is left")
	}
	if _, _, err := server.Open(make([]byte, Room), p); err == nil {
		t.Error("Open goes on")
	}
	if b, err := server.Seal(nil, p); err == nil || len(b) > 0 || len(server.Close(nil)) > 0 {
		t.Error("Seal goes on")
	}
}

func TestNewDeclines(t *testing.T) {
	good := tls.ConnectionState{Version: tls.VersionTLS13, HandshakeComplete: true, CipherSuite: tls.TLS_AES_128_GCM_SHA256}
	for name, f := range map[string]func(*tls.ConnectionState, *Secrets){
		"TLS 1.2":           func(st *tls.ConnectionState, _ *Secrets) { st.Version = tls.VersionTLS12 },
		"another suite":     func(st *tls.ConnectionState, _ *Secrets) { st.CipherSuite = 0x1304 },
		"no handshake":      func(st *tls.ConnectionState, _ *Secrets) { st.HandshakeComplete = false },
		"no secrets":        func(_ *tls.ConnectionState, s *Secrets) { s.Clear() },
		"one secret":        func(_ *tls.ConnectionState, s *Secrets) { s.server = secret{} },
		"secrets of 384":    func(st *tls.ConnectionState, _ *Secrets) { st.CipherSuite = tls.TLS_AES_256_GCM_SHA384 },
		"a secret too long": func(_ *tls.ConnectionState, s *Secrets) { s.client.parse(bytes.Repeat([]byte("ab"), 49)) },
		"a secret not hex":  func(_ *tls.ConnectionState, s *Secrets) { s.client.parse(bytes.Repeat([]byte("xy"), 32)) },
	} {
		state, s := good, &Secrets{client: secret{n: 32}, server: secret{n: 32}}
		if New(&state, s, true) == nil {
			t.Fatal("New declines what is good")
		}
		f(&state, s)
		if New(&state, s, true) != nil {
			t.Errorf("%s: New does not decline", name)
		}
	}
}

func TestTap(t *testing.T) {
	client, server := configs()
	for name, tt := range map[string]struct {
		change func(*tls.Config)
		server bool
		want   bool
	}{
		"client":             {nil, false, true},
		"server":             {nil, true, true},
		"server's tickets":   {func(c *tls.Config) { c.SessionTicketsDisabled = false }, true, false},
		"client's tickets":   {func(c *tls.Config) { c.ClientSessionCache = tls.NewLRUClientSessionCache(1) }, false, false},
		"another log":        {func(c *tls.Config) { c.KeyLogWriter = io.Discard }, true, false},
		"client, no tickets": {func(c *tls.Config) { c.SessionTicketsDisabled = false }, false, true},
	} {
		cfg := client.Clone()
		if tt.server {
			cfg = server.Clone()
		}
		if tt.change != nil {
			tt.change(cfg)
		}
		before := cfg.KeyLogWriter
		got := new(Secrets).Tap(cfg, tt.server)
		if (got != cfg) != tt.want || cfg.KeyLogWriter != before {
			t.Errorf("%s: tapped is %t", name, got != cfg)
		}
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	const digits = "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5"
	var s Secrets
	for _, label := range []string{"CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"} {
		if _, err := fmt.Fprintf(&s, "%s 00 %s\n", label, digits); err != nil {
			t.Fatal(err)
		}
	}
	state := &tls.ConnectionState{Version: tls.VersionTLS13, HandshakeComplete: true, CipherSuite: tls.TLS_AES_128_GCM_SHA256}
	c := New(state, &s, true)
	_, _, err := c.Open(make([]byte, Room), []byte("GET / HTTP/1.1"))
	var text strings.Builder
	for _, v := range []any{s, &s, c, err, errors.Unwrap(err)} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%s", "%d"} {
			fmt.Fprintf(&text, verb+"\n", v)
		}
	}
	for _, part := range []string{"9e40646c", "158 64 100", "0x9e, 0x40", "9e, 40"} {
		if strings.Contains(text.String(), part) {
			t.Errorf("printed:\n%s", text.String())
		}
	}
	if s.Clear(); s != (Secrets{}) {
		t.Error("Clear leaves something")
	}
}

func BenchmarkRecords(b *testing.B) {
	for _, n := range []int{100, MaxContent} {
		for _, su := range suites {
			b.Run(fmt.Sprintf("%s/%d", su.name, n), func(b *testing.B) {
				client, server := pair(b, su.id)
				p, sealed, dst := make([]byte, n), make([]byte, 0, 2*n+100), make([]byte, Room)
				b.SetBytes(int64(n))
				for b.Loop() {
					sealed, _ = client.Seal(sealed[:0], p)
					if _, _, err := server.Open(dst, sealed); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
