package record

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/fips140"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"

	"golang.org/x/crypto/chacha20poly1305"
)

// maxSecret is the length of the longest traffic secret, SHA-384's.
const maxSecret = sha512.Size384

// Secrets is the key log of one handshake. It keeps the application traffic
// secrets of the two directions until Clear. The zero Secrets is ready.
type Secrets struct {
	client, server secret
}

type secret struct {
	b [maxSecret]byte
	n int // 0: not seen, or not understood
}

// Tap returns a copy of cfg whose key log is s. It returns cfg itself, so that s
// stays empty and New declines, when crypto/tls has to keep the connection: cfg
// logs its keys elsewhere, has a server send tickets, which are records under the
// new keys, or a client keep them.
func (s *Secrets) Tap(cfg *tls.Config, server bool) *tls.Config {
	tickets := cfg.ClientSessionCache != nil
	if server {
		tickets = !cfg.SessionTicketsDisabled
	}
	if tickets || cfg.KeyLogWriter != nil || fips140.Enabled() {
		return cfg
	}
	cfg = cfg.Clone()
	cfg.KeyLogWriter = s
	return cfg
}

// Write implements io.Writer for crypto/tls, which writes a line at a time:
// label, the client's random, secret.
func (s *Secrets) Write(line []byte) (int, error) {
	f := bytes.Fields(line)
	if len(f) == 3 {
		switch string(f[0]) {
		case "CLIENT_TRAFFIC_SECRET_0":
			s.client.parse(f[2])
		case "SERVER_TRAFFIC_SECRET_0":
			s.server.parse(f[2])
		}
	}
	return len(line), nil
}

// Format implements fmt.Formatter, lest anybody print the secrets.
func (s Secrets) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "record.Secrets") }

// Clear overwrites the secrets.
func (s *Secrets) Clear() { *s = Secrets{} }

func (s *secret) parse(digits []byte) {
	s.n = 0
	if len(digits) > 2*len(s.b) {
		return
	}
	if n, err := hex.Decode(s.b[:], digits); err == nil {
		s.n = n
	}
}

// A suite is what a cipher suite stands for.
type suite struct {
	hash       func() hash.Hash
	secretSize int
	keySize    int
	aead       func(key []byte) (cipher.AEAD, error)
}

func suiteOf(id uint16) (suite, bool) {
	switch id {
	case tls.TLS_AES_128_GCM_SHA256:
		return suite{sha256.New, sha256.Size, 16, newGCM}, true
	case tls.TLS_AES_256_GCM_SHA384:
		return suite{sha512.New384, sha512.Size384, 32, newGCM}, true
	case tls.TLS_CHACHA20_POLY1305_SHA256:
		return suite{sha256.New, sha256.Size, chacha20poly1305.KeySize, chacha20poly1305.New}, true
	}
	return suite{}, false
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// expand is HKDF-Expand-Label without a context (RFC 8446, section 7.1), into
// out.
func (su *suite) expand(out []byte, secret *[maxSecret]byte, label string) {
	label = "tls13 " + label
	info := make([]byte, 0, 24)
	info = binary.BigEndian.AppendUint16(info, uint16(len(out)))
	info = append(info, byte(len(label)))
	info = append(info, label...)
	p, err := hkdf.Expand(su.hash, secret[:su.secretSize], string(append(info, 0)), len(out))
	if err != nil {
		panic("record: " + err.Error()) // for lengths that are not ours
	}
	copy(out, p)
	clear(p)
}

// rekey makes key and IV of the secret (section 7.3). Numbers begin again.
func (h *half) rekey(su *suite) {
	var key [32]byte
	su.expand(key[:su.keySize], &h.secret, "key")
	su.expand(h.iv[:], &h.secret, "iv")
	aead, err := su.aead(key[:su.keySize])
	if err != nil {
		panic("record: " + err.Error()) // for a length that is not ours, and in FIPS 140-3 mode
	}
	clear(key[:])
	h.aead, h.seq = aead, 0
}

// update goes on to the next secret (section 7.2).
func (h *half) update(su *suite) {
	var next [maxSecret]byte
	su.expand(next[:su.secretSize], &h.secret, "traffic upd")
	h.secret = next
	clear(next[:])
	h.rekey(su)
}

// next returns the nonce of the next record and counts it (section 5.3).
func (h *half) next() []byte {
	copy(h.nonce[:4], h.iv[:4])
	binary.BigEndian.PutUint64(h.nonce[4:], binary.BigEndian.Uint64(h.iv[4:])^h.seq)
	h.seq++
	return h.nonce[:]
}
