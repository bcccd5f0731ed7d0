package jwt

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// The examples of the RFCs. Their keys are in testdata/keys.json.
var vectors = []struct{ from, key, algorithm, text string }{
	{"RFC 7515, appendix A.1", "oct", "HS256", "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9." + joe + ".dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"},
	{"RFC 7515, appendix A.2", "rsa", "RS256", "eyJhbGciOiJSUzI1NiJ9." + joe + "." +
		"cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4" +
		"BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqv" +
		"hJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"},
	{"RFC 7515, appendix A.3", "ec", "ES256", "eyJhbGciOiJFUzI1NiJ9." + joe + "." +
		"DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"},
	{"RFC 7520, section 4.2", "rsa2", "PS384", "eyJhbGciOiJQUzM4NCIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4.cu22eBqkYDKgIlTpzDXGvaFfz6WGoz7fUDcfT0kkOy42miAh2qyBzk1xEsnk2IpN6-tPid6VrklHkqsGqDqHCdP6O8TTB5dDDItllVo6_1OLPpcbUrhiUSMxbbXUvdvWXzg-UD8biiReQFlfz28zGWVsdiNAUf8ZnyPEgVFn442ZdNqiVJRmBqrYRXe8P_ijQ7p8Vdz0TTrxUeT3lm8d9shnr2lfJT8ImUjvAA2Xez2Mlp8cBE5awDzT0qI0n6uiP1aCN_2_jLAeQTlqRHtfa64QQSUmFAAjVKPbByi7xho0uTOcbH510a6GYmJUAfmWjwZ6oD4ifKo8DYM-X72Eaw"},
	{"RFC 7520, section 4.3", "ec521", "ES512", "eyJhbGciOiJFUzUxMiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4.AE_R_YZCChjn4791jSQCrdPZCNYqHXCTZH0-JZGYNlaAjP2kqaluUIIUnC9qvbu9Plon7KRTzoNEuT4Va2cmL1eJAQy3mtPBu_u_sDDyYjnAMDxXPn7XrT0lw-kvAD890jl8e2puQens_IEKBpHABlsbEPX6sFY8OcGDqoRuBomu9xQ2"},
	{"RFC 8037, appendix A.4", "ed", "EdDSA", "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc." +
		"hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"},
}

// joe is the payload that RFC 7515 shares with RFC 7519, section 3.1.
const joe = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"

func vectorKeys(t testing.TB, name string) *Keys {
	t.Helper()
	text, err := os.ReadFile("testdata/keys.json")
	if err != nil {
		t.Fatal(err)
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(text, &keys); err != nil {
		t.Fatal(err)
	}
	k, err := ParseKeys([]byte(`{"keys":[` + string(keys[name]) + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestVerifyVectors(t *testing.T) {
	for _, v := range vectors {
		keys := vectorKeys(t, v.key)
		sections := strings.Split(v.text, ".")
		signature, _, _ := decode(sections[2])
		tok := &token{Head: Head{Algorithm: v.algorithm}, signature: len(signature)}
		if got := keys.verify(tok, v.text); got != OK {
			t.Errorf("%s: %v", v.from, got)
		}
		for i := range sections { // one bit of each
			changed := strings.Split(v.text, ".")
			b := []byte(changed[i])
			b[len(b)/2] ^= 1 << 1
			if changed[i] = string(b); b[len(b)/2] == '\x2f' {
				continue
			}
			if got := keys.verify(tok, strings.Join(changed, ".")); got == OK {
				t.Errorf("%s: section %d changed, and it verifies", v.from, i)
			}
		}
		for _, other := range vectors {
			if other.key != v.key {
				if got := vectorKeys(t, other.key).verify(tok, v.text); got == OK {
					t.Errorf("%s: verified by the key of %s", v.from, other.from)
				}
			}
		}
	}
}

func TestParseVectors(t *testing.T) {
	for _, v := range vectors[:3] {
		tok, reason := parse(v.text)
		if reason != OK {
			t.Errorf("%s: %v", v.from, reason)
			continue
		}
		if tok.Algorithm != v.algorithm || tok.Issuer != "joe" || tok.Expires != 1300819380 || tok.claims["http://example.com/is_root"] != true {
			t.Errorf("%s: got %+v, %v", v.from, tok.Head, tok.claims)
		}
	}
	for _, v := range vectors[3:] { // no JSON
		if _, reason := parse(v.text); reason != PayloadBadJSON {
			t.Errorf("%s: got %v, want %v", v.from, reason, PayloadBadJSON)
		}
	}
}

// TestParseUnsecured reads RFC 7519's example of a token that nobody has signed
// (section 6.1).
func TestParseUnsecured(t *testing.T) {
	for text, want := range map[string]Reason{
		"eyJhbGciOiJub25lIn0." + joe + ".":   BadFormat,
		"eyJhbGciOiJub25lIn0." + joe + ".AA": UnknownAlgorithm,
	} {
		if _, got := parse(text); got != want {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
	}
}

// TestParseKeysVectors reads RFC 7517's examples (appendix A): public keys, which
// are for encryption and for signatures, private ones, and secrets, of which one
// is for something else.
func TestParseKeysVectors(t *testing.T) {
	const ec = `"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"`
	const n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMs" +
		"tn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
	for _, c := range []struct{ appendix, set, want, ids string }{
		{"A.1", `{"keys":[{` + ec + `,"use":"enc","kid":"1"},{"kty":"RSA","n":"` + n + `","e":"AQAB","alg":"RS256","kid":"2011-04-29"}]}`,
			"keys[0]: is for encryption", "2011-04-29"},
		{"A.2", `{"keys":[{` + ec + `,"d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE","use":"enc","kid":"1"},{"kty":"RSA","n":"` + n + `","e":"AQAB","d":"X4cT","p":"83i-","alg":"RS256","kid":"2011-04-29"}]}`,
			"keys[0]: is for encryption", "2011-04-29"},
		{"A.3", `{"keys":[{"kty":"oct","alg":"A128KW","k":"GawgguFyGrWKav7AX4VKUg"},{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow","kid":"HMAC key used in JWS spec Appendix A.1 example"}]}`,
			`keys[0]: alg "A128KW" is not supported of kty oct`, "HMAC key used in JWS spec Appendix A.1 example"},
	} {
		keys, err := ParseKeys([]byte(c.set))
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: got %v, want %s", c.appendix, err, c.want)
		}
		if got := strings.Join(keys.IDs(), " "); got != c.ids || keys.Len() != 1 {
			t.Errorf("%s: got %d keys %s, want %s", c.appendix, keys.Len(), got, c.ids)
		}
	}
}
