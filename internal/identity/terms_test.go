package identity

import (
	"crypto/tls"
	"testing"
)

// TestTermsOfHandshakes has two sources with terms of their own shake hands.
func TestTermsOfHandshakes(t *testing.T) {
	ca := newTestCA(t)
	roots := ca.roots("cluster.local")
	config := func(server bool, terms Terms, edit func(*tls.Config)) *tls.Config {
		src := onTerms{fixed{ca.leaf(web, nil), roots}, terms}
		cfg := ClientConfig(src, web, web)
		if server {
			cfg = ServerConfig(src, web)
		}
		if edit != nil {
			edit(cfg)
		}
		return cfg
	}
	old := func(cfg *tls.Config) { cfg.MaxVersion = tls.VersionTLS12 }
	classic := func(cfg *tls.Config) { cfg.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256} }
	weak := func(cfg *tls.Config) {
		old(cfg)
		cfg.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
	}
	both := Terms{PostQuantum: true, TLS12: true}
	for _, test := range []struct {
		name           string
		client, server Terms
		edit           func(*tls.Config) // of the peer, on either side
		version        uint16            // 0: refused
		curve          tls.CurveID
	}{
		{"as it is", Terms{}, Terms{}, nil, tls.VersionTLS13, tls.X25519MLKEM768},
		{"post-quantum", Terms{PostQuantum: true}, Terms{PostQuantum: true}, nil, tls.VersionTLS13, tls.X25519MLKEM768},
		{"one of the two post-quantum", Terms{PostQuantum: true}, Terms{}, nil, tls.VersionTLS13, tls.X25519MLKEM768},
		{"post-quantum, to one who is not", Terms{PostQuantum: true}, Terms{}, classic, 0, 0},
		{"TLS 1.3 where 1.2 is taken", Terms{TLS12: true}, Terms{TLS12: true}, nil, tls.VersionTLS13, tls.X25519MLKEM768},
		{"TLS 1.2", Terms{TLS12: true}, Terms{TLS12: true}, old, tls.VersionTLS12, tls.X25519},
		{"TLS 1.2, which is not taken", Terms{}, Terms{TLS12: true}, old, 0, 0},
		{"TLS 1.2 with a suite that is not taken", Terms{TLS12: true}, Terms{TLS12: true}, weak, 0, 0},
		{"post-quantum with TLS 1.2", both, Terms{TLS12: true}, old, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			for name, pair := range map[string][2]*tls.Config{
				"client": {config(false, test.client, nil), config(true, test.server, test.edit)},
				"server": {config(false, test.server, test.edit), config(true, test.client, nil)},
			} {
				state, cerr, serr := shake(pair[0], pair[1])
				switch {
				case test.version == 0 && (cerr == nil || serr == nil):
					t.Errorf("%s: got %v and %v, want both to fail", name, cerr, serr)
				case test.version != 0 && (cerr != nil || serr != nil):
					t.Errorf("%s: %v, %v", name, cerr, serr)
				case test.version != 0 && (state.Version != test.version || state.CurveID != test.curve):
					t.Errorf("%s: version %x with %v, want %x with %v", name, state.Version, state.CurveID, test.version, test.curve)
				}
			}
		})
	}
}

func TestParseCompliance(t *testing.T) {
	for s, want := range map[string]bool{"": false, "pqc": true} {
		if got, err := ParseCompliance(s); err != nil || got != want {
			t.Errorf("%q: %t, %v", s, got, err)
		}
	}
	if _, err := ParseCompliance("fips-140-2"); err == nil {
		t.Error("taken")
	}
}
