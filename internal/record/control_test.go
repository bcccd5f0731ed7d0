package record

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"testing"
)

var (
	update        = []byte{msgKeyUpdate, 0, 0, 1, 0}
	updateRequest = []byte{msgKeyUpdate, 0, 0, 1, 1}
	ticket        = append([]byte{msgNewSessionTicket, 0, 1, 44}, make([]byte, 300)...)
)

// A record of every kind that a peer may send, and many that it may not.
func TestInnerPlaintexts(t *testing.T) {
	const fine = tls.AlertError(254)
	big := make([]byte, MaxContent)
	for name, tt := range map[string]struct {
		inner  []byte
		client bool // it is a client that gets it
		want   tls.AlertError
	}{
		"content":                  {inner(typeContent, []byte("x"), 0), false, fine},
		"content, padded":          {inner(typeContent, []byte("x\x00"), 100), false, fine},
		"padded to the limit":      {inner(typeContent, []byte("x"), MaxContent-1), false, fine},
		"padded beyond it":         {inner(typeContent, []byte("x"), MaxContent), false, alertRecordOverflow},
		"padded as far as it goes": {inner(typeContent, []byte("x"), Room-2), false, alertRecordOverflow},
		"content, longest":         {inner(typeContent, big, 0), false, fine},
		"content, too long":        {inner(typeContent, append(big, 0), 0), false, alertRecordOverflow},
		"empty":                    {inner(typeContent, nil, 0), false, fine},
		"empty, padded":            {inner(typeContent, nil, 9), false, fine},
		"nothing at all":           {nil, false, alertUnexpected},
		"only padding":             {make([]byte, 20), false, alertUnexpected},
		"change_cipher_spec":       {inner(20, []byte{1}, 0), false, alertUnexpected},
		"heartbeat":                {inner(24, []byte{1}, 0), false, alertUnexpected},
		"type 255":                 {inner(255, []byte{1}, 0), false, alertUnexpected},
		"user_canceled":            {inner(typeAlert, []byte{1, 90}, 0), false, fine},
		"alert of 1 octet":         {inner(typeAlert, []byte{2}, 0), false, alertUnexpected},
		"two alerts":               {inner(typeAlert, []byte{1, 90, 1, 90}, 0), false, alertUnexpected},
		"empty alert":              {inner(typeAlert, nil, 0), false, alertUnexpected},
		"empty handshake":          {inner(typeHandshake, nil, 0), false, alertUnexpected},
		"ticket":                   {inner(typeHandshake, ticket, 0), true, fine},
		"two tickets":              {inner(typeHandshake, append(ticket[:304:304], ticket...), 3), true, fine},
		"ticket to a server":       {inner(typeHandshake, ticket, 0), false, alertUnexpected},
		"ticket of nothing":        {inner(typeHandshake, []byte{4, 0, 0, 0}, 0), true, alertDecode},
		"ticket too long":          {inner(typeHandshake, []byte{4, 1, 0, 1}, 0), true, alertDecode},
		"client hello":             {inner(typeHandshake, []byte{1, 0, 0, 1, 0}, 0), false, alertUnexpected},
		"certificate request":      {inner(typeHandshake, []byte{13, 0, 0, 1, 0}, 0), true, alertUnexpected},
		"finished":                 {inner(typeHandshake, []byte{20, 0, 0, 1, 0}, 0), true, alertUnexpected},
		"update":                   {inner(typeHandshake, update, 0), false, fine},
		"update, requested":        {inner(typeHandshake, updateRequest, 7), false, fine},
		"update of 2":              {inner(typeHandshake, []byte{24, 0, 0, 1, 2}, 0), false, alertIllegal},
		"update of 2 octets":       {inner(typeHandshake, []byte{24, 0, 0, 2, 0, 0}, 0), false, alertDecode},
		"update of nothing":        {inner(typeHandshake, []byte{24, 0, 0, 0}, 0), false, alertDecode},
		"update and more":          {inner(typeHandshake, append(update[:5:5], 24), 0), false, alertUnexpected},
		"ticket and update":        {inner(typeHandshake, append(ticket[:304:304], update...), 0), true, fine},
	} {
		t.Run(name, func(t *testing.T) {
			us, peer := aesPair(t)
			if !tt.client {
				us, peer = peer, us
			}
			got, err := openAll(us, peer.forge(nil, tt.inner))
			if tt.want != fine {
				wantRefused(t, us, peer, err, tt.want)
			} else if err != nil {
				t.Error(err)
			}
			var want []byte
			if len(tt.inner) > 0 && tt.want == fine {
				if p := bytes.TrimRight(tt.inner, "\x00"); p[len(p)-1] == typeContent {
					want = p[:len(p)-1]
				}
			}
			if !bytes.Equal(got, want) {
				t.Errorf("got %.20q, want %.20q", got, want)
			}
		})
	}
}

func TestAlerts(t *testing.T) {
	for _, a := range []tls.AlertError{10, 20, 42, 48, 80, 116, 200} {
		for _, level := range []byte{1, 2} {
			client, server := aesPair(t)
			_, err := openAll(server, client.forge(nil, inner(typeAlert, []byte{level, byte(a)}, 0)))
			if got, remote := alertOf(err); got != a || !remote {
				t.Errorf("alert %d, level %d: %v", a, level, err)
			}
			if b, err2 := server.Seal(nil, []byte("x")); len(b) > 0 || !errors.Is(err2, err) || len(server.Close(nil)) > 0 || server.Owes() {
				t.Errorf("alert %d: something is said after it, or %v", a, err2)
			}
		}
	}
	client, server := aesPair(t)
	if _, err := openAll(server, client.forge(nil, inner(typeAlert, []byte{2, 0}, 0))); !errors.Is(err, io.EOF) {
		t.Errorf("close_notify of level 2: %v", err)
	}
}

// A handshake message may come in pieces, and nothing in between.
func TestMessagesInPieces(t *testing.T) {
	pieces := func(c *Conn, msg []byte, size int) (p []byte) {
		for len(msg) > 0 {
			n := min(size, len(msg))
			p = c.forge(p, inner(typeHandshake, msg[:n], 0))
			msg = msg[n:]
		}
		return p
	}
	t.Run("ticket", func(t *testing.T) {
		client, server := aesPair(t)
		p := pieces(server, append(ticket[:304:304], ticket...), 61)
		got, err := openAll(client, append(p, mustSeal(t, server, []byte("x"))...))
		if string(got) != "x" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("update", func(t *testing.T) {
		client, server := aesPair(t)
		p := pieces(client, update, 1)
		client.out.update(&client.suite)
		got, err := openAll(server, append(p, mustSeal(t, client, []byte("x"))...))
		if string(got) != "x" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
	for name, between := range map[string][]byte{
		"content": inner(typeContent, []byte("x"), 0), "nothing": inner(typeContent, nil, 0), "alert": inner(typeAlert, []byte{1, 0}, 0),
	} {
		for _, cut := range []int{1, 4, 100} {
			t.Run(name, func(t *testing.T) {
				client, server := aesPair(t)
				_, err := openAll(client, server.forge(pieces(server, ticket[:cut], cut), between))
				wantRefused(t, client, server, err, alertUnexpected)
			})
		}
	}
}

func TestBarrenRecordsAreBounded(t *testing.T) {
	for name, p := range map[string][]byte{
		"empty": inner(typeContent, nil, 5), "user_canceled": inner(typeAlert, []byte{1, 90}, 0), "tickets": inner(typeHandshake, ticket, 0),
	} {
		t.Run(name, func(t *testing.T) {
			client, server := aesPair(t)
			for range 5 { // content makes up for them
				for range maxBarren {
					if _, err := openAll(client, server.forge(nil, p)); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := openAll(client, mustSeal(t, server, []byte("x"))); err != nil {
					t.Fatal(err)
				}
			}
			var err error
			n := 0
			for ; err == nil && n < 1000; n++ {
				_, err = openAll(client, server.forge(nil, p))
			}
			if n != maxBarren+1 {
				t.Errorf("%d", n)
			}
			wantRefused(t, client, server, err, alertUnexpected)
		})
	}
}

// A KeyUpdate costs us more than it costs the peer, so it has to carry something.
func TestKeyUpdatesAreBounded(t *testing.T) {
	client, server := aesPair(t)
	hurry := func(content int) (n int, err error) {
		for ; err == nil && n < 100; n++ {
			client.update = true
			p := mustSeal(t, client, nil)
			for range content {
				p = append(p, mustSeal(t, client, []byte("x"))...)
			}
			_, err = openAll(server, p)
		}
		return n, err
	}
	if n, err := hurry(calmRecords); n != 100 || err != nil {
		t.Errorf("%d with enough in between, then %v", n, err)
	}
	n, err := hurry(10)
	if n != 1+maxHurried+1 { // the first was earned
		t.Errorf("%d in a hurry", n)
	}
	wantRefused(t, server, client, err, alertUnexpected)
}

// However often a KeyUpdate was asked for, there is one answer, before whatever
// is said next.
func TestKeyUpdateIsAnsweredOnce(t *testing.T) {
	client, server := aesPair(t)
	for range 5 {
		client.update, client.ask = true, true
		if _, err := openAll(server, mustSeal(t, client, []byte("x"))); err != nil {
			t.Fatal(err)
		}
	}
	if !server.Owes() {
		t.Fatal("no answer")
	}
	before := server.out.secret
	p := mustSeal(t, server, nil)
	if len(p) != headerSize+len(update)+1+tagSize || server.Owes() || server.out.secret == before || server.out.seq != 0 {
		t.Errorf("%d bytes", len(p))
	}
	if _, err := openAll(client, p); err != nil || client.Owes() || client.in.secret != server.out.secret {
		t.Errorf("the answer is answered, or %v", err)
	}
	if got, err := openAll(client, mustSeal(t, server, []byte("y"))); string(got) != "y" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	client.update = true // and asks for none
	if _, err := openAll(server, mustSeal(t, client, nil)); err != nil || server.Owes() {
		t.Errorf("a KeyUpdate that asks for nothing is answered, or %v", err)
	}
}

// A key is replaced after so many records, whoever sends them.
func TestKeysDoNotGrowOld(t *testing.T) {
	for _, su := range suites {
		t.Run(su.name, func(t *testing.T) {
			client, server := pair(t, su.id)
			client.life, server.life = calmRecords, calmRecords
			secrets := map[[maxSecret]byte]bool{}
			for range 10 * calmRecords {
				secrets[client.out.secret] = true
				got, err := openAll(server, mustSeal(t, client, []byte("x")))
				if string(got) != "x" || err != nil {
					t.Fatalf("%q, %v", got, err)
				}
				if client.out.seq > calmRecords || server.in.seq > calmRecords {
					t.Fatalf("%d records under one key", client.out.seq)
				}
			}
			if len(secrets) != 10 {
				t.Errorf("%d keys", len(secrets))
			}
		})
	}
}

// A peer that goes on and on under one key is asked, once, for another.
func TestPeerIsAskedForAnotherKey(t *testing.T) {
	client, server := aesPair(t)
	server.life = 2 * calmRecords
	asked := 0
	for range 20 * calmRecords {
		if _, err := openAll(server, mustSeal(t, client, []byte("x"))); err != nil {
			t.Fatal(err)
		}
		if server.Owes() {
			asked++
			if _, err := openAll(client, mustSeal(t, server, nil)); err != nil || !client.Owes() {
				t.Fatalf("the peer is not asked: %v", err)
			}
		}
	}
	if asked != 10 {
		t.Errorf("asked %d times", asked)
	}
}
