package jwt

import (
	"crypto/ed25519"
	"slices"

	"github.com/go-jose/go-jose/v4"
)

// algorithmsOf are the algorithms of each kind of key. There is none that is not
// in it: "none", for one, has no key.
var algorithmsOf = map[string][]string{
	"RSA": {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"},
	"EC":  {"ES256", "ES384", "ES512"},
	"OKP": {"EdDSA"},
	"oct": {"HS256", "HS384", "HS512"},
}

// algorithmOf is the algorithm of a curve, and curveOf the curve of an
// algorithm. A key that names neither is on P-256.
var (
	algorithmOf = map[string]string{"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
	curveOf     = map[string]string{"": "P-256", "ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
)

func isAlgorithm(name string) bool {
	for _, list := range algorithmsOf {
		if slices.Contains(list, name) {
			return true
		}
	}
	return false
}

// verify reports whether one of k has signed the token t, whose text is given.
// A key whose ID differs from the token's is not tried, nor is one that is for
// another algorithm; where either has no ID, all are.
func (k *Keys) verify(t *token, text string) Reason {
	if len(k.keys) == 0 {
		return NoKeys
	}
	matched := false
	var parsed *jose.JSONWebSignature
	for i := range k.keys {
		key := &k.keys[i]
		if t.KeyID != "" && key.id != "" && t.KeyID != key.id || key.only != "" && key.only != t.Algorithm {
			continue
		}
		matched = true
		if !slices.Contains(key.algorithms, t.Algorithm) {
			continue
		}
		if _, ok := key.public.(ed25519.PublicKey); ok && t.signature != ed25519.SignatureSize {
			return SignatureWrongLength
		}
		if parsed == nil {
			var err error
			parsed, err = jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(t.Algorithm)})
			if err != nil || t.critical {
				return VerificationFails
			}
		}
		if _, err := parsed.Verify(key.public); err == nil {
			return OK
		}
	}
	if !matched {
		return NoKeyMatches
	}
	return VerificationFails
}
