package loop

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
)

// A KeyUpdate that asks for one is answered, although the driver has nothing to
// say, and the connection goes on under new keys.
func TestKeyUpdate(t *testing.T) {
	each(t, func(e *env) {
		client, server := certs()
		secrets := &keyLog{}
		client, server = client.Clone(), server.Clone()
		client.KeyLogWriter = secrets
		ours, peers := e.pair(e)
		counted := &countedConn{Conn: peers}
		peer := tls.Client(counted, client)
		done := make(chan error, 1)
		go func() { done <- peer.Handshake() }()
		s, err := Handshake(e.Context(), ours, server, ServerSide)
		if err = errors.Join(err, <-done); err != nil {
			e.Fatal(err)
		}
		counted.records = 0
		if s.TLS().CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
			e.Skip("another cipher suite")
		}
		d := &driver{}
		e.adoptConn(s, d)

		secret := secrets.find(e, "CLIENT_TRAFFIC_SECRET_0")
		before := e.l.Stats().Writes
		e.write(peers, seal(secret, 22, []byte{24, 0, 0, 1, 1}))
		e.until("the answer", func() bool { return e.l.Stats().Writes > before })
		e.write(peers, seal(expand(secret, "traffic upd", 32), 23, []byte("new keys")))
		e.until("bytes under the new keys", func() bool { return string(d.in) == "new keys" })
		// The answer is a record of its own before this one; crypto/tls follows it.
		e.send(d, []byte("heard"))
		if got := e.read(peer, 5); string(got) != "heard" {
			e.Errorf("peer read %q", got)
		}
		if counted.records != 2 {
			e.Errorf("%d records, want the answer to the KeyUpdate and another", counted.records)
		}
	})
}

// seal makes the first TLS 1.3 record under a traffic secret (RFC 8446, 5.2).
func seal(secret []byte, typ byte, p []byte) []byte {
	block, _ := aes.NewCipher(expand(secret, "key", 16))
	aead, _ := cipher.NewGCM(block)
	p = append(bytes.Clone(p), typ)
	head := binary.BigEndian.AppendUint16([]byte{23, 3, 3}, uint16(len(p)+aead.Overhead()))
	return aead.Seal(head, expand(secret, "iv", 12), p, head)
}

// expand is HKDF-Expand-Label without a context (RFC 8446, section 7.1).
func expand(secret []byte, label string, n int) []byte {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(append(info, byte(len(label))), label...)
	out, err := hkdf.Expand(sha256.New, secret, string(append(info, 0)), n)
	if err != nil {
		panic(err)
	}
	return out
}

type keyLog struct {
	mu  sync.Mutex
	log strings.Builder
}

func (k *keyLog) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.log.Write(p)
}

func (k *keyLog) find(e *env, label string) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	for line := range strings.Lines(k.log.String()) {
		if f := strings.Fields(line); f[0] == label {
			b, _ := hex.DecodeString(f[2])
			return b
		}
	}
	e.Fatalf("no %s", label)
	return nil
}

// A countedConn counts the records that are read.
type countedConn struct {
	net.Conn
	records int
	skip    int
	head    []byte
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	for _, b := range p[:n] {
		if c.skip > 0 {
			c.skip--
			continue
		}
		if c.head = append(c.head, b); len(c.head) == recordHeader {
			c.records++
			c.skip = int(c.head[3])<<8 | int(c.head[4])
			c.head = c.head[:0]
		}
	}
	return n, err
}
