package rbac

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	jwtauthnv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
)

// The key that signs the tokens of the tests, one that is in no key set, and the
// key set.
var (
	signing  = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	forging  = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, ed25519.SeedSize))
	testKeys = `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"test","x":"` + base64url(signing.Public().(ed25519.PublicKey)) + `"}]}`
)

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// sign returns a token.
func sign(t *testing.T, key ed25519.PrivateKey, claims map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	text := base64url([]byte(`{"alg":"EdDSA","kid":"test"}`)) + "." + base64url(payload)
	return text + "." + base64url(ed25519.Sign(key, []byte(text)))
}

// localKeys is a key set that is in a filter.
func localKeys(jwks string) *jwtauthnv3.JwtProvider_LocalJwks {
	return &jwtauthnv3.JwtProvider_LocalJwks{LocalJwks: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: jwks}}}
}
