package jwt

import (
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/internal/l7"
)

// FuzzCheck makes requests of arbitrary strings. A token that was not signed is
// never taken, memory changes nothing, and of what was not to be forwarded
// nothing is.
func FuzzCheck(f *testing.F) {
	good := vectors[1].text
	for _, words := range []string{
		"Bearer " + good + "\n?access_token=" + good + "\ntok=" + good,
		good + "\n/x?t%6Fk=" + good + "&tok=&&a=%\na=b; tok=\"" + good + "\"; tok",
		"realm Bearer  " + good + "\n/x?tok=" + good + "&tok=%2\n;;=;tok=;",
		"Bearer eyJhbGciOiJub25lIn0." + joe + ".\n/?\n",
		"Bearer " + vectors[2].text + "\n\n",
	} {
		f.Add(words)
	}
	rule := Rule{Issuer: "joe", JWKSURI: "http://keys.example", OutputPayloadToHeader: "x-payload"}
	anywhere := rule
	anywhere.FromHeaders, anywhere.FromParams, anywhere.FromCookies = []Header{{Name: "authorization"}, {Name: "authorization", Prefix: "Bearer "}}, []string{"tok"}, []string{"tok"}
	var sets []*Set
	for _, r := range []*Rule{&rule, &anywhere} {
		set, err := Compile(Options{}, &RequestAuthentication{Rules: []Rule{*r, {Issuer: "jim", JWKSURI: "http://keys.example"}}})
		if err != nil {
			f.Fatal(err)
		}
		sets = append(sets, set)
	}
	ring := Ring{{URI: "http://keys.example"}: vectorKeys(f, "rsa")}
	v := NewVerifier(Limits{Tokens: 2, Refused: 2})
	f.Fuzz(func(t *testing.T, words string) {
		parts := append(strings.SplitN(words, "\n", 3), "", "")
		for _, set := range sets {
			req := &l7.Request{Method: "GET", Path: parts[1], Fields: l7.Fields{{Name: "authorization", Value: parts[0]}, {Name: "cookie", Value: parts[2]}, {Name: "x-payload", Value: "forged"}}}
			res := set.Check(inTime, req, ring, v)
			fresh := set.Check(inTime, req.Clone(), ring, nil)
			if res.Allowed != fresh.Allowed || res.Reason != fresh.Reason || res.Rule != fresh.Rule || (res.Token == nil) != (fresh.Token == nil) {
				t.Fatalf("%v with memory, %v without", res, fresh)
			}
			if !res.Allowed {
				if res.Token != nil || res.Details() == "" || res.Reason.Status() < 401 {
					t.Fatalf("refused: %+v", res)
				}
				continue
			}
			if res.Token != nil && !strings.Contains(unescape(words), good) {
				t.Fatalf("%q was taken", words)
			}
			res.Apply(req)
			if got := req.Fields.Get("x-payload"); got != "" && got != joe {
				t.Fatalf("x-payload: %q", got)
			}
			if again := set.Check(inTime.Add(time.Second), req, ring, v); again.Token != nil {
				t.Fatalf("a token was forwarded: %q", req.Path)
			}
		}
	})
}

// FuzzParseKeys reads arbitrary key sets.
func FuzzParseKeys(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AA=="},{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},{"kty":"RSA","n":"AQ","e":"AQAB"}]}`))
	f.Add([]byte(`{"a":"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		keys, err := ParseKeys(content)
		if keys == nil && err == nil {
			t.Fatal("neither keys nor an error")
		}
		if keys != nil {
			for _, v := range vectors[:3] {
				tok, _ := parse(v.text)
				keys.verify(tok, v.text)
			}
		}
	})
}
