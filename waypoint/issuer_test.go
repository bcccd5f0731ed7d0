package waypoint

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"time"
)

// An Issuer signs tokens, for tests.
type Issuer struct{ key ed25519.PrivateKey }

// NewIssuer returns one of 256 issuers, who differ by their keys.
func NewIssuer(seed byte) Issuer {
	return Issuer{ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))}
}

// Keys is the issuer's key set.
func (i Issuer) Keys() string {
	return fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":%q}]}`, encode(i.key.Public().(ed25519.PublicKey)))
}

// Token returns a token that is good for items for an hour, but for what claims
// say.
func (i Issuer) Token(claims map[string]any) string {
	all := map[string]any{"iss": "https://issuer.example", "sub": "ann", "aud": "items", "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(all, claims)
	payload, _ := json.Marshal(all)
	text := encode([]byte(`{"alg":"EdDSA","kid":"k"}`)) + "." + encode(payload)
	return text + "." + encode(ed25519.Sign(i.key, []byte(text)))
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// TakesTokens has items take the tokens of Issuers.
const TakesTokens = `
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: issuer, namespace: default}
spec:
  targetRefs: [{kind: Service, group: "", name: items}]
  jwtRules:
  - issuer: https://issuer.example
    audiences: [items]
    outputPayloadToHeader: x-payload
    outputClaimToHeaders: [{header: x-subject, claim: sub}]
    %s
`
