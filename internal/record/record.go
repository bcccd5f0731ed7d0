// Package record protects the records of a TLS 1.3 connection once crypto/tls
// has shaken hands. It opens them from where they were read to where their content
// is wanted, and seals them in the buffer that is written: with no buffer of its
// own, and no allocation.
//
// crypto/tls does the same behind a net.Conn. A record that it reads it copies
// into a buffer, which it keeps, and the content out of it; what it writes it
// copies twice. A proxy does little else than move records: for a tunnel the
// copies were a tenth of the work and more, and of an idle connection the buffer
// was most.
//
// # What it does
//
// The handshake is crypto/tls's: certificates, verification, key exchange, the
// choice of the cipher suite. [Secrets] stands in its key log and catches the two
// application traffic secrets of this one connection, which [New] turns into a
// [Conn] when the handshake is over and crypto/tls has neither sent nor read
// anything under them. From there on a Conn does what RFC 8446 asks of the
// record layer (sections 5, 6, 4.6 and 7): keys and nonces, alerts, KeyUpdates in
// both directions, the limits of records. A Conn is used by one goroutine at a
// time.
//
// # What it relies on
//
//   - crypto/aes, crypto/cipher, x/crypto/chacha20poly1305 and crypto/hkdf. There
//     is no cryptography here, only its use: a nonce is the IV XOR the number of
//     the record (5.3), numbers count up from 0 under each key and a key is
//     replaced after 2²⁴ records, so no nonce is ever used twice, and AES-GCM
//     stays within its limit of 2^24.5 (5.5). The peer is asked to replace its
//     own after as many.
//   - The key log of crypto/tls having the format it is documented to have.
//     Anything else leaves the connection with crypto/tls.
//   - Whoever reads and writes the socket between the handshake and New handing
//     over exactly: crypto/tls must hold no byte of a record that New's Conn is
//     to open. (The loop gives it one record at a time.)
//
// # What it refuses
//
// Every refusal is final. It is told to the peer by one alert under the current
// key, after which nothing more is opened or sealed:
//
//   - what does not authenticate, be it forged, replayed, reordered or cut;
//   - an outer type other than application_data, so that a change_cipher_spec or
//     an alert in the clear, which may appear in a handshake, is refused after it;
//   - more than 2¹⁴+256 octets of ciphertext, as soon as the header says so, or
//     2¹⁴+1 of content, type and padding;
//   - an inner plaintext of zeros alone, and an inner type that is not content,
//     handshake or alert;
//   - a handshake message that is not whole when another type of record follows,
//     or when the key changes; one other than KeyUpdate, and from a server
//     NewSessionTicket, which is skipped;
//   - 17 records in a row that bring no content, and 33 KeyUpdates in a row of
//     which each came within 1024 records of the one before it.
//
// A fatal alert of the peer ends both directions, close_notify and user_canceled
// as RFC 8446 has them. An end of TCP without close_notify is for the caller to
// judge.
//
// Left to crypto/tls is what is not TLS 1.3, what uses a suite that is not one of
// the three above, what may have sent a session ticket, what logs its keys
// elsewhere, and everything in FIPS 140-3 mode, whose module approves no use of
// AES-GCM with nonces that come from outside.
//
// # Secrets
//
// Secrets are in no error and no log, and fmt does not print them. Those that
// have served are overwritten: the key log's in [Secrets.Clear], a key's material
// once the cipher is made of it, a traffic secret when the next replaces it or the
// connection ends. What crypto/tls and the ciphers keep of their own is the
// garbage collector's, as it is with crypto/tls alone, and so is the line in which
// crypto/tls spells a secret for the key log.
package record

import (
	"crypto/cipher"
	"crypto/fips140"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
)

// Sizes of records (RFC 8446, sections 5.1 and 5.2).
const (
	MaxContent = 1 << 14 // of one record

	// Room is what Open may need at the end of dst, for padding and the type.
	Room = MaxContent + 256 - tagSize

	headerSize    = 5
	tagSize       = 16 // of all three suites
	maxCiphertext = MaxContent + 256
)

// The types of records and of handshake messages that matter after a handshake.
const (
	typeAlert     = 21
	typeHandshake = 22
	typeContent   = 23

	msgNewSessionTicket = 4
	msgKeyUpdate        = 24
)

// The alerts that are sent or understood (RFC 8446, section 6).
const (
	alertCloseNotify    tls.AlertError = 0
	alertUnexpected     tls.AlertError = 10
	alertBadRecordMAC   tls.AlertError = 20
	alertRecordOverflow tls.AlertError = 22
	alertIllegal        tls.AlertError = 47
	alertDecode         tls.AlertError = 50
	alertInternal       tls.AlertError = 80
	alertUserCanceled   tls.AlertError = 90
)

// The limits of a peer's patience and of ours.
const (
	keyLife     = 1 << 24  // records under one key: RFC 8446, section 5.5, has 2^24.5 for AES-GCM
	maxBarren   = 16       // records in a row that bring no content, as crypto/tls
	maxHurried  = 32       // KeyUpdates in a row, each after fewer records than
	calmRecords = 1 << 10  // which pay for the derivation of a key
	maxTicket   = 64 << 10 // 64 KiB, as crypto/tls, though it is only skipped
)

// ErrEnded is what Seal returns after Close.
var ErrEnded = errors.New("tls: close_notify has been sent")

// A Conn is the record protection of one connection. Open and Seal keep nothing
// of what they are given.
type Conn struct {
	suite  suite
	server bool
	life   uint64 // keyLife
	in     half
	out    half

	openErr error // why nothing more is opened: io.EOF, or what has ended both directions
	sealErr error // why nothing more is sealed

	// What the next Seal says first: an alert, or else a KeyUpdate.
	alert  tls.AlertError // 0: none; close_notify is never owed
	update bool
	ask    bool // the KeyUpdate asks for one
	asked  bool // one has, since the peer's last

	barren  int
	hurried int

	// The handshake message that is under way: its first bytes, which are all
	// that matter, and how many more there are.
	head [5]byte
	got  int
	skip int
}

// New returns the Conn that goes on where crypto/tls has finished the handshake
// of state, and nil when the connection has to stay with crypto/tls.
func New(state *tls.ConnectionState, secrets *Secrets, server bool) *Conn {
	su, ok := suiteOf(state.CipherSuite)
	ours, theirs := &secrets.client, &secrets.server
	if server {
		ours, theirs = theirs, ours
	}
	if !ok || !state.HandshakeComplete || state.Version != tls.VersionTLS13 || fips140.Enabled() ||
		ours.n != su.secretSize || theirs.n != su.secretSize {
		return nil
	}
	c := &Conn{suite: su, server: server, life: keyLife}
	c.in.secret, c.out.secret = theirs.b, ours.b
	c.in.rekey(&su)
	c.out.rekey(&su)
	return c
}

// Clear overwrites the secrets. Nothing is opened or sealed any more.
func (c *Conn) Clear() {
	c.in, c.out = half{}, half{}
	c.openErr, c.sealErr = net.ErrClosed, net.ErrClosed
}

// Format implements fmt.Formatter, lest anybody print the secrets.
func (c *Conn) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "record.Conn") }

// Owes reports whether the peer is owed an alert or a KeyUpdate, which a Seal of
// nothing tells it.
func (c *Conn) Owes() bool { return c.sealErr == nil && (c.alert != 0 || c.update) }

// refuse ends the connection because of what the peer has sent.
func (c *Conn) refuse(a tls.AlertError) error {
	c.alert = a
	c.openErr = &net.OpError{Op: "local error", Err: a}
	return c.openErr
}

// A half is one direction under its current key.
type half struct {
	aead   cipher.AEAD
	secret [maxSecret]byte
	iv     [12]byte
	nonce  [12]byte
	seq    uint64 // records so far under this key
}
