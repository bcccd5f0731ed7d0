package jwt_test

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"os"
	"strings"
	"sync"

	"github.com/go-jose/go-jose/v4"
)

// A fataler is what a helper tells that a test itself is wrong.
type fataler interface {
	Fatalf(format string, args ...any)
}

// testKeys are the keys of testdata/keys.json. They are known to all the world,
// from RFC 7515 (rsa, ec, oct), 7520 (rsa2, ec521) and 8037 (ed); ec384 was made
// for this.
var testKeys = sync.OnceValue(func() map[string]map[string]any {
	text, err := os.ReadFile("testdata/keys.json")
	if err != nil {
		panic(err)
	}
	var keys map[string]map[string]any
	if err := json.Unmarshal(text, &keys); err != nil {
		panic(err)
	}
	return keys
})

// defaultAlgorithms are what the keys sign by unless a header says otherwise.
var defaultAlgorithms = map[string]string{"rsa": "RS256", "rsa2": "RS256", "ec": "ES256", "ec384": "ES384", "ec521": "ES512", "ed": "EdDSA", "oct": "HS256"}

// keySet returns the public parts of keys, which are written as in a script.
func keySet(f fataler, names []string) string {
	set := struct {
		Keys []map[string]any `json:"keys"`
	}{Keys: []map[string]any{}}
	for _, text := range names {
		words := strings.Split(text, ",")
		k, ok := testKeys()[words[0]]
		if !ok {
			f.Fatalf("no key %q", words[0])
		}
		k = maps.Clone(k)
		for _, private := range []string{"d", "p", "q", "dp", "dq", "qi"} {
			delete(k, private)
		}
		k["kid"] = words[0]
		for _, word := range words[1:] {
			name, value, _ := strings.Cut(word, "=")
			if value == "" {
				delete(k, name)
			} else {
				k[name] = value
			}
		}
		set.Keys = append(set.Keys, k)
	}
	out, err := json.Marshal(set)
	if err != nil {
		f.Fatalf("%v", err)
	}
	return string(out)
}

// sign returns a token. Its header has the members of header besides alg, kid
// and typ; one that is nil is left out.
func sign(f fataler, name string, header, claims map[string]any) string {
	key, ok := testKeys()[name]
	if !ok {
		f.Fatalf("no key %q", name)
	}
	all := map[string]any{"alg": defaultAlgorithms[name], "kid": name, "typ": "JWT"}
	maps.Copy(all, header)
	for member, v := range all {
		if v == nil {
			delete(all, member)
		}
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		f.Fatalf("%v", err)
	}
	return signText(f, key, all, string(payload))
}

// signText signs by the algorithm that the header names, whatever else it says.
func signText(f fataler, key, header map[string]any, payload string) string {
	text, err := json.Marshal(key)
	if err != nil {
		f.Fatalf("%v", err)
	}
	var jwk jose.JSONWebKey
	if err := jwk.UnmarshalJSON(text); err != nil {
		f.Fatalf("%v", err)
	}
	algorithm, _ := header["alg"].(string)
	o := (&jose.SignerOptions{}).WithBase64(true)
	o.ExtraHeaders = map[jose.HeaderKey]any{}
	for name, v := range header {
		if name != "alg" {
			o.ExtraHeaders[jose.HeaderKey(name)] = v
		}
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(algorithm), Key: jwk.Key}, o)
	if err != nil {
		f.Fatalf("%v", err)
	}
	signed, err := signer.Sign([]byte(payload))
	if err != nil {
		f.Fatalf("%v", err)
	}
	out, err := signed.CompactSerialize()
	if err != nil {
		f.Fatalf("%v", err)
	}
	return out
}

func base64url(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
