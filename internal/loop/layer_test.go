package loop

import (
	"bytes"
	"crypto/fips140"
	"crypto/tls"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"weak"

	"github.com/waystone-mesh/waystone/internal/record"
)

var cryptoTLS = flag.Bool("crypto-tls", false, "leave the records of TLS to crypto/tls")

// ours reports whether records are to be protected by package record.
func ours() bool { return !*cryptoTLS && !fips140.Enabled() }

// The tests of this package pass with either layer, and in FIPS 140-3 mode, which
// leaves records to crypto/tls by itself.
func TestOnCryptoTLS(t *testing.T) {
	if !ours() {
		t.Skip("this is it")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ arg, env string }{
		"by option": {"-crypto-tls", ""}, "FIPS 140-3": {"-test.run=TLS|Layer|KeyUpdate", "GODEBUG=fips140=on"},
	} {
		cmd := exec.CommandContext(t.Context(), exe, tt.arg, "-test.timeout=5m")
		cmd.Env = append(os.Environ(), tt.env)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

func TestLayerIsChosen(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*tls.Config)
		o      Options
		own    bool
	}{
		"usual":     {nil, Options{}, ours()},
		"by option": {nil, Options{CryptoTLS: true}, false},
		"TLS 1.2":   {func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }, Options{}, false},
		"key log":   {func(c *tls.Config) { c.KeyLogWriter = io.Discard }, Options{}, false},
		"tickets":   {func(c *tls.Config) { c.SessionTicketsDisabled = false }, Options{}, false},
		"per client": {func(c *tls.Config) {
			d := c.Clone()
			c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return d, nil }
		}, Options{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			newEnv(t, tt.o, nil, func(e *env) {
				client, server := certs()
				client, server = client.Clone(), server.Clone()
				client.MinVersion = tls.VersionTLS12
				if tt.change != nil {
					tt.change(server)
				}
				s, peer := e.secureWith(client, server)
				d := echo()
				e.adoptConn(s, d)
				e.on(func() {
					if _, own := s.layer.(*record.Conn); own != tt.own || s.stock != nil {
						e.Errorf("the layer is %T, and there is %T", s.layer, s.stock)
					}
				})
				e.write(peer, pattern(50_000))
				if got := e.read(peer, 50_000); !bytes.Equal(got, pattern(50_000)) {
					e.Error("other bytes")
				}
				peer.Close()
				e.wantClosed(d, nil)
				if tt.own {
					if _, err := s.layer.Seal(nil, nil); !errors.Is(err, net.ErrClosed) {
						e.Errorf("the keys are still there: %v", err)
					}
				}
			})
		})
	}
}

func (e *env) secureWith(client, server *tls.Config) (*Socket, *tls.Conn) {
	e.Helper()
	ours, peers := e.pair(e)
	peer := tls.Client(peers, client)
	failed := make(chan error, 1)
	go func() { failed <- peer.Handshake() }()
	s, err := Handshake(e.Context(), ours, server, ServerSide)
	if err = errors.Join(err, <-failed); err != nil {
		e.Fatal(err)
	}
	return s, peer
}

// A socket of ours keeps nothing of crypto/tls's connection.
func TestCryptoTLSIsLetGo(t *testing.T) {
	if !ours() {
		t.Skip("it is in use")
	}
	newEnv(t, Options{}, nil, func(e *env) {
		s, _ := e.secure()
		conn := weak.Make(s.stock.(*stock).conn)
		e.adoptConn(s, echo())
		runtime.GC()
		if conn.Value() != nil {
			e.Error("it is still there")
		}
		runtime.KeepAlive(s)
	})
}

// Both ends are ours, and both talk at once.
func TestBothEndsOnTheLoop(t *testing.T) {
	each(t, func(e *env) {
		client, server := certs()
		for seed := range uint64(5) {
			ours, peers := e.pair(e)
			shaken := make(chan *Socket, 1)
			go func() {
				s, err := Handshake(e.Context(), peers, client, ClientSide)
				if err != nil {
					e.Error(err)
				}
				shaken <- s
			}()
			s, err := Handshake(e.Context(), ours, server, ServerSide)
			if err != nil {
				e.Fatal(err)
			}
			rnd := rand.New(rand.NewPCG(seed, 0))
			a, b := talker(rnd), talker(rnd)
			e.adoptConn(s, a)
			e.adoptConn(<-shaken, b)
			for _, d := range []*driver{a, b} {
				e.wantClosed(d, nil)
				if !bytes.Equal(d.in, pattern(300_000)) {
					e.Errorf("%d bytes, or others", len(d.in))
				}
			}
		}
	})
}

// talker returns a driver that says 300,000 bytes, so many at a time, and ends.
func talker(rnd *rand.Rand) *driver {
	d := &driver{}
	rest := pattern(300_000)
	most := 1 << rnd.IntN(18)
	d.output = func() []byte {
		p := rest[:min(len(rest), rnd.IntN(most)+1+most/10)]
		if rest = rest[len(p):]; len(rest) == 0 {
			d.s.CloseWrite()
		}
		return p
	}
	return d
}

// With TLS 1.3 a client's handshake is over before the server has looked at its
// certificate: what it thinks of it comes as the first record.
func TestCertificateIsRefusedAfterTheHandshake(t *testing.T) {
	each(t, func(e *env) {
		client, server := certs()
		server = server.Clone()
		server.VerifyConnection = func(tls.ConnectionState) error { return errors.New("not you") }
		ours, peers := e.pair(e)
		go tls.Server(peers, server).Handshake()
		s, err := Handshake(e.Context(), ours, client, ClientSide)
		if err != nil {
			e.Fatal(err)
		}
		d := &driver{}
		e.adoptConn(s, d)
		if err := <-d.closed; err == nil || !strings.HasSuffix(err.Error(), "remote error: tls: bad certificate") {
			e.Errorf("Closed(%v)", err)
		}
		peers.Close()
	})
}

// What a driver has to say when a bad record arrives is not sealed any more, but
// the peer is told what was bad.
func TestBadRecordWhileThereIsOutput(t *testing.T) {
	bubble(t, func(e *env) {
		ours, peers := e.pair(e)
		s, peer := e.secureConns(ours, peers)
		d := echo()
		e.adoptConn(s, d)
		e.mem.Stall(s.LocalAddr().Addr(), true)
		e.write(peer, []byte("good"))
		e.write(peers, append([]byte{23, 3, 3, 0, 30}, make([]byte, 30)...))
		e.mem.Stall(s.LocalAddr().Addr(), false)
		got, err := io.ReadAll(peer)
		if len(got) > 0 || err == nil || !strings.Contains(err.Error(), "bad record MAC") {
			e.Errorf("peer: %q, %v", got, err)
		}
		if err := <-d.closed; err == nil || !strings.Contains(err.Error(), "bad record MAC") {
			e.Errorf("Closed(%v)", err)
		}
	})
}

// A driver that has paused is not told of a bad record, but the peer is, and
// what the driver still has to say is not sealed after that.
func TestBadRecordWhilePaused(t *testing.T) {
	bubble(t, func(e *env) {
		ours, peers := e.pair(e)
		s, peer := e.secureConns(ours, peers)
		d := &driver{}
		d.receive = func(p []byte) error {
			d.in = append(d.in, p...)
			d.s.Pause()
			return nil
		}
		e.adoptConn(s, d)
		e.mem.Stall(s.LocalAddr().Addr(), true)
		e.write(peer, []byte("good"))
		e.write(peers, append([]byte{23, 3, 3, 0, 30}, make([]byte, 30)...))
		e.mem.Stall(s.LocalAddr().Addr(), false)
		synctest.Wait()
		if string(d.in) != "good" {
			e.Errorf("received %q", d.in)
		}
		if _, err := peer.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "bad record MAC") {
			e.Errorf("peer: %v", err)
		}
		select {
		case err := <-d.closed:
			e.Errorf("Closed(%v) while paused", err)
		default:
		}
		e.send(d, []byte("too late"))
		if err := <-d.closed; err == nil || !strings.Contains(err.Error(), "bad record MAC") {
			e.Errorf("Closed(%v)", err)
		}
		if rest, _ := io.ReadAll(peers); len(rest) > 0 {
			e.Errorf("%d bytes after the alert", len(rest))
		}
	})
}
