package jwks

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/waystone-mesh/waystone/authz/jwt"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// signer returns a key and a token that it has signed.
func signer(t *testing.T, id, claims string) (jose.JSONWebKey, string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: private, KeyID: id}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := s.Sign([]byte(claims))
	if err != nil {
		t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return jose.JSONWebKey{Key: private.Public(), KeyID: id}, token
}

// TestKeysRotate has an issuer go from one key to the next, and out of reach.
func TestKeysRotate(t *testing.T) {
	const claims = `{"iss":"http://10.0.0.9/tenant","sub":"me"}`
	first, oldToken := signer(t, "1", claims)
	second, newToken := signer(t, "2", claims)
	inBubble(t, Options{}, func(b *bubble) {
		publish := func(keys ...jose.JSONWebKey) {
			text, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
			if err != nil {
				t.Fatal(err)
			}
			b.do(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.URL.Path, "/tenant/.well-known/") {
					text := `{"issuer":"http://10.0.0.9/tenant","jwks_uri":"http://10.0.0.9/keys"}`
					_, _ = w.Write([]byte(text))
					return
				}
				_, _ = w.Write(text)
			})
		}
		set, err := jwt.Compile(jwt.Options{}, &jwt.RequestAuthentication{Rules: []jwt.Rule{{Issuer: "http://10.0.0.9/tenant"}}})
		if err != nil {
			t.Fatal(err)
		}
		v := jwt.NewVerifier(jwt.Limits{})
		want := func(what, wantOld, wantNew string) {
			t.Helper()
			for _, c := range []struct{ token, want string }{{oldToken, wantOld}, {newToken, wantNew}} {
				req := &l7.Request{Method: "GET", Path: "/", Fields: l7.Fields{{Name: "authorization", Value: "Bearer " + c.token}}}
				for range 2 {
					if res := set.Check(time.Now(), req, b.store.Snapshot().Keys, v); fmt.Sprint(res.Reason) != c.want {
						t.Errorf("%s: %v, want %s", what, res.Reason, c.want)
					}
				}
			}
		}
		publish(first)
		want("nothing fetched", "Jwks remote fetch is failed", "Jwks remote fetch is failed")
		b.store.Follow(maps.Collect(set.Sources()))
		synctest.Wait()
		want("one key", "OK", "Jwks doesn't have key to match kid or alg from Jwt")
		publish(first, second)
		b.pass(20 * time.Minute)
		want("both", "OK", "OK")
		publish(second)
		b.pass(20 * time.Minute)
		want("the other", "Jwks doesn't have key to match kid or alg from Jwt", "OK")
		b.fail(500)
		b.pass(6 * 24 * time.Hour)
		want("away", "Jwks doesn't have key to match kid or alg from Jwt", "OK")
		b.pass(2 * 24 * time.Hour)
		want("away for too long", "Jwks remote fetch is failed", "Jwks remote fetch is failed")
	})
}
