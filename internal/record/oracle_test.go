package record

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

// Both ends talk at random, each of them a Conn or crypto/tls, and everything
// arrives: in fragments of any size, under new keys now and then, up to the end
// of both directions.
func TestAgainstCryptoTLS(t *testing.T) {
	for _, tt := range []struct{ client, server bool }{{true, true}, {true, false}, {false, true}, {false, false}} {
		t.Run(fmt.Sprintf("client %t, server %t", tt.client, tt.server), func(t *testing.T) {
			for seed := range uint64(10) {
				talk(t, tt.client, tt.server, rand.New(rand.NewPCG(seed, 0)))
			}
		})
	}
}

func talk(t *testing.T, clientOwn, serverOwn bool, rnd *rand.Rand) {
	a, b := ends(t, clientOwn, serverOwn)
	most := 1 << rnd.IntN(17) // of a fragment
	sent := map[*end][]byte{}
	closed := map[*end]bool{}
	updates := 0
	for range 400 {
		from, to := a, b
		if rnd.IntN(2) == 0 {
			from, to = b, a
		}
		switch op := rnd.IntN(20); {
		case op < 8 && !closed[from]:
			p := make([]byte, rnd.IntN(1<<rnd.IntN(17))+1)
			for i := range p {
				p[i] = byte(rnd.Uint32())
			}
			from.write(p)
			sent[from] = append(sent[from], p...)
		case op == 8 && from.own != nil && updates < maxHurried && len(from.out)+len(to.out)+len(to.in) == 0 && !closed[from]:
			updates++
			from.own.update, from.own.ask = true, rnd.IntN(2) == 0
		case op == 9 && rnd.IntN(50) == 0:
			from.close()
			closed[from] = true
		default:
			from.move(to, rnd.IntN(most)+1)
		}
	}
	a.close()
	b.close()
	for len(a.out)+len(b.out) > 0 {
		a.move(b, max(most, len(a.out)/500))
		b.move(a, max(most, len(b.out)/500))
	}
	for from, to := range map[*end]*end{a: b, b: a} {
		if !bytes.Equal(to.got, sent[from]) || !errors.Is(to.err, io.EOF) {
			t.Fatalf("got %d bytes of %d, %v", len(to.got), len(sent[from]), to.err)
		}
	}
}

// Every way to cut a conversation into two reads.
func TestFragmentsAgainstCryptoTLS(t *testing.T) {
	for _, own := range []bool{true, false} {
		a, b := ends(t, !own, own)
		a.write([]byte("one"))
		a.write([]byte("two"))
		n := len(a.out)
		a.move(b, n)
		for cut := range n + 1 {
			b.got = nil
			a.write([]byte("one"))
			a.write([]byte("two"))
			a.move(b, cut)
			a.move(b, n)
			if string(b.got) != "onetwo" || b.err != nil {
				t.Fatalf("cut at %d: %q, %v", cut, b.got, b.err)
			}
		}
	}
}

// A Conn and crypto/tls get the same records, good and bad, and say the same
// about them: the same content, the same alert.
func TestSameVerdictAsCryptoTLS(t *testing.T) {
	types := []byte{typeContent, typeContent, typeContent, typeAlert, typeHandshake, 24, 0} // not 20: crypto/tls ignores change_cipher_spec
	random := func(rnd *rand.Rand, n int) []byte {
		p := make([]byte, rnd.IntN(n))
		for i := range p {
			p[i] = byte(rnd.IntN(4)) // zeros and small lengths
		}
		return p
	}
	messages := [][]byte{update, updateRequest, ticket, {24, 0, 0, 1, 2}, {24, 0, 0, 2, 0, 0}, {24, 0, 0}, {13, 0, 0, 0}, {24, 0, 0, 1, 0, 24}}
	for seed := range uint64(400) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		// The peer's secrets forge for both: the handshake is shared, so the two
		// get the very same octets.
		peer, stock := ends(t, true, false)
		own := twin(peer.own)
		wire := peer.own
		for range rnd.IntN(6) + 1 {
			var p []byte
			switch op := rnd.IntN(12); {
			case op < 4:
				p = wire.forge(nil, inner(typeContent, random(rnd, 40), rnd.IntN(3)))
			case op < 6:
				p = wire.forge(nil, inner(types[rnd.IntN(len(types))], random(rnd, 5), rnd.IntN(3)))
			case op < 8:
				p = wire.forge(nil, inner(typeHandshake, messages[rnd.IntN(len(messages))], 0))
			case op < 9:
				p = wire.forge(nil, inner(typeAlert, []byte{byte(rnd.IntN(3)), []byte{0, 0, 90, 10, 80}[rnd.IntN(5)]}, 0))
			case op < 10:
				p = wire.forge(nil, append(make([]byte, MaxContent-1+rnd.IntN(3)), typeContent))
			default:
				p = wire.forge(nil, inner(typeContent, random(rnd, 40), 0))
				if i := rnd.IntN(len(p)); i > 4 { // the rest is not the same: see TestHeaderIsRefused
					p[i] ^= 1 << rnd.IntN(8)
				}
			}
			stock.receive(p)
			got, err := openAll(own, p)
			if !bytes.HasSuffix(stock.got, got) {
				t.Fatalf("seed %d: got %.20q, crypto/tls %.20q", seed, got, stock.got)
			}
			stock.got = nil
			if err != nil && stock.err == nil && own.got == 4 {
				break // it waits for the rest of a message whose header is enough for us
			}
			if (err == nil) != (stock.err == nil) || err != nil && verdict(err) != verdict(stock.err) && !wordy(stock.err) {
				t.Fatalf("seed %d: %v, crypto/tls %v", seed, err, stock.err)
			}
			// What the two answer the peer understands in the same way.
			said, _ := own.Seal(nil, nil)
			twice := *peer.own
			_, ownErr := openAll(&twice, said)
			_, stockErr := openAll(peer.own, stock.out)
			stock.out = nil
			if verdict(ownErr) != verdict(stockErr) || twice.in.secret != peer.own.in.secret {
				t.Fatalf("seed %d: after %v the peer hears %v, of crypto/tls %v", seed, err, ownErr, stockErr)
			}
			if err != nil {
				break
			}
			if p := wire.out.secret; own.in.secret != p { // a KeyUpdate was among them
				wire.out.update(&wire.suite)
			}
		}
	}
}

// twin returns the Conn of the other end of c's connection.
func twin(c *Conn) *Conn {
	t := &Conn{suite: c.suite, server: !c.server, life: c.life}
	t.in.secret, t.out.secret = c.out.secret, c.in.secret
	t.in.rekey(&t.suite)
	t.out.rekey(&t.suite)
	return t
}

// verdict returns what err says to an operator. About the alert for a message
// that makes no sense crypto/tls and RFC 8446 do not always agree.
func verdict(err error) string {
	text := fmt.Sprint(err)
	for _, a := range []tls.AlertError{alertDecode, alertIllegal, alertInternal} {
		text = strings.ReplaceAll(text, a.Error(), alertUnexpected.Error())
	}
	return text
}

// wordy reports whether err is one of those that crypto/tls words with more than
// the alert.
func wordy(err error) bool {
	a, _ := alertOf(err)
	return a == 255
}

// A peer that is crypto/tls follows our KeyUpdates, and answers when it is asked.
func TestKeysDoNotGrowOldWithCryptoTLS(t *testing.T) {
	own, peer := ends(t, true, false)
	own.own.life = calmRecords
	for i := range 5 * calmRecords {
		own.write([]byte("x"))
		own.move(peer, len(own.out))
		peer.write([]byte("y"))
		peer.move(own, len(peer.out))
		if own.err != nil || peer.err != nil || len(own.got) != i+1 || len(peer.got) != i+1 {
			t.Fatalf("record %d: %v, %v", i, own.err, peer.err)
		}
		if own.own.in.seq > calmRecords+2 || own.own.out.seq > calmRecords {
			t.Fatalf("keys are %d and %d records old", own.own.in.seq, own.own.out.seq)
		}
	}
}

// FuzzOpen has a Conn read what anybody may write, and what only the peer can:
// records that authenticate, with anything in them.
func FuzzOpen(f *testing.F) {
	client, _ := aesPair(f)
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), false)
	f.Add(client.forge(nil, []byte("sealed by nobody")), false)
	f.Add([]byte("\x02x\x17"), true)
	f.Add([]byte("\x06\x18\x00\x00\x01\x01\x16\x02y\x17"), true)
	f.Add([]byte("\x05\x04\x00\x00\x02\x16\x03ab\x16\x03\x01\x00\x15"), true)
	f.Fuzz(func(t *testing.T, p []byte, sealed bool) {
		client, server := fuzzPair()
		src := p
		if sealed { // p is inner plaintexts, each after its length
			src = nil
			shadow := *server // has read them before, to know when the key changes
			for len(p) > 0 {
				n := min(int(p[0]), len(p)-1)
				before := shadow.in.secret
				rec := client.forge(nil, p[1:1+n])
				p = p[1+n:]
				src = append(src, rec...)
				if _, _ = openAll(&shadow, rec); shadow.in.secret != before {
					client.out.update(&client.suite)
				}
			}
		}
		dst := make([]byte, Room)
		var got []byte
		for {
			n, used, err := server.Open(dst, src)
			if err != nil {
				if n != 0 || used != 0 {
					t.Fatalf("%d, %d and %v", n, used, err)
				}
				if _, remote := alertOf(err); !errors.Is(err, io.EOF) && server.Owes() == remote {
					t.Fatalf("after %v something is owed: %t", err, server.Owes())
				}
				if _, _, again := server.Open(dst, src); !errors.Is(again, err) {
					t.Fatalf("%v, then %v", err, again)
				}
				break
			}
			if used == 0 {
				if server.Whole(src) {
					t.Fatal("whole, and not opened")
				}
				break
			}
			if n > used || n > MaxContent {
				t.Fatalf("%d bytes of %d", n, used)
			}
			got = append(got, dst[:n]...)
			src = src[used:]
		}
		if !sealed && len(got) > 0 {
			t.Fatalf("opened %q", got)
		}
	})
}

// fuzzPair is a pair under secrets that never change, so that a finding can be
// had again.
func fuzzPair() (client, server *Conn) {
	s := &Secrets{client: secret{n: 32}, server: secret{n: 32, b: [maxSecret]byte{1}}}
	state := &tls.ConnectionState{Version: tls.VersionTLS13, HandshakeComplete: true, CipherSuite: tls.TLS_AES_128_GCM_SHA256}
	return New(state, s, false), New(state, s, true)
}
