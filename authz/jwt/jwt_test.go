package jwt

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/l7"
)

func TestNilSetTakesEverything(t *testing.T) {
	var s *Set
	req := bearer("nonsense")
	res := s.Check(inTime, req, nil, nil)
	res.Apply(req)
	if !res.Allowed || res.Details() != "" || req.Fields.Get("authorization") != "Bearer nonsense" {
		t.Errorf("got %+v and %v", res, req.Fields)
	}
	for range s.Sources() {
		t.Error("a source of keys is needed")
	}
}

func TestClosedSetRefusesEverything(t *testing.T) {
	s := Closed("policy default/p  was rejected")
	res := s.Check(inTime, &l7.Request{Method: "GET", Path: "/"}, nil, nil)
	if got, want := res.Details(), "jwt_authn_access_denied{closed:policy_default/p_was_rejected}"; res.Allowed || res.Policy != nil || got != want {
		t.Errorf("got %+v, %s, want %s", res, got, want)
	}
}

func TestReasonsHaveTextsStatusesAndDetails(t *testing.T) {
	seen := map[string]bool{}
	for r := OK; r <= TooManyTokens; r++ {
		text, details := r.String(), r.Details()
		if text == "" || seen[text] {
			t.Errorf("reason %d is %q, as another is", r, text)
		}
		seen[text] = true
		status := 401
		switch r {
		case OK:
			status = 0
		case AudienceNotAllowed:
			status = 403
		}
		if r.Status() != status {
			t.Errorf("%v: status %d, want %d", r, r.Status(), status)
		}
		if r != OK && (strings.ContainsRune(details, ' ') || strings.ReplaceAll(details, "_", " ") != "jwt authn access denied{"+text+"}") {
			t.Errorf("%v: details %s", r, details)
		}
	}
	if OK.Details() != "" {
		t.Errorf("details of OK: %s", OK.Details())
	}
}

func TestSourcesStopWhenTold(t *testing.T) {
	s, err := Compile(Options{}, &RequestAuthentication{Rules: []Rule{{Issuer: "a"}, {Issuer: "b"}, {Issuer: "c", JWKS: `{"keys":[]}`}}})
	if err != nil {
		t.Fatal(err)
	}
	var got []Source
	for source := range s.Sources() {
		got = append(got, source)
		break
	}
	if want := []Source{{Issuer: "a"}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestValidateCountsRules(t *testing.T) {
	p := &RequestAuthentication{Rules: make([]Rule, maxRules+1)}
	for i := range p.Rules {
		p.Rules[i].Issuer = "a"
	}
	err := Validate(p)
	var field *authz.FieldError
	if !errors.As(err, &field) || field.Field != "spec.jwtRules" || field.Policy.Kind != Kind {
		t.Errorf("got %v", err)
	}
}

func TestKeysAreTheSame(t *testing.T) {
	rsa, ec := vectorKeys(t, "rsa"), vectorKeys(t, "ec")
	if !rsa.Same(vectorKeys(t, "rsa")) || rsa.Same(ec) {
		t.Error("keys are not the same as themselves, or as others")
	}
}

func TestApplyKeepsARequestThatNothingIsToBeTakenOf(t *testing.T) {
	if got := withoutParam("/a", "b"); got != "/a" {
		t.Errorf("withoutParam: %s", got)
	}
	fields := withoutCookie(l7.Fields{{Name: "a", Value: "tok=x"}, {Name: "cookie", Value: "tok2=x;tok"}}, "tok")
	if got := fields.Get("cookie"); got != "tok2=x; tok" || fields.Get("a") != "tok=x" {
		t.Errorf("withoutCookie: %v", fields)
	}
}

func TestParseKeysBoundsRSA(t *testing.T) {
	for bytes, want := range map[int]string{
		127:  "keys[0]: n has 1016 bits, not 1024 to 8192",
		128:  "",
		1024: "",
		1025: "keys[0]: n has 8200 bits, not 1024 to 8192",
	} {
		n := strings.Repeat("\xff", bytes)
		_, err := ParseKeys([]byte(`{"keys":[{"kty":"RSA","e":"AQAB","n":"` + base64.RawURLEncoding.EncodeToString([]byte(n)) + `"}]}`))
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%d bytes: got %q, want %q", bytes, got, want)
		}
	}
}

// certificate returns a certificate of a key in PEM.
func certificate(t *testing.T, public, private any) string {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(2e9, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestParseKeysReadsCertificates(t *testing.T) {
	r, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ok := certificate(t, &r.PublicKey, r)
	for _, c := range []struct {
		set  map[string]any
		want string
		ids  []string
	}{
		{map[string]any{"a": ok}, "", []string{"a"}},
		{map[string]any{"a": ok, "b": certificate(t, &e.PublicKey, e), "c": "-----BEGIN CERTIFICATE-----\n", "d": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"},
			"b: is not a certificate of an RSA key; c: is not a certificate in PEM; d: x509: malformed certificate", []string{"a"}},
		{map[string]any{"a": ok, "b": 1}, `has no field "keys"`, nil},
		{map[string]any{"a": "x"}, `has no field "keys"`, nil},
	} {
		text, _ := json.Marshal(c.set)
		keys, err := ParseKeys(text)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
		if keys != nil && !slices.Equal(keys.IDs(), c.ids) || keys == nil && c.ids != nil {
			t.Errorf("got %v, want %v", keys, c.ids)
		}
	}
}
