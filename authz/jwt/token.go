package jwt

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// A Head is what a token says about itself. Nothing of it has been verified if
// the token was refused.
type Head struct {
	Algorithm, KeyID   string // alg and kid of its header
	Issuer, Subject    string // iss and sub
	Audiences          []string
	NotBefore, Expires uint64 // nbf and exp, in seconds since 1970; 0: none
}

// A token is one that has been parsed.
type token struct {
	Head
	claims    map[string]any
	payload   string // as sent: a view of the text
	signature int    // its length
	critical  bool   // its header has parameters that must be understood
}

// parse reads a token. What is wrong is found in Envoy's order.
func parse(text string) (*token, Reason) {
	head, rest, _ := strings.Cut(text, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	if head == "" || payload == "" || signature == "" || strings.Contains(signature, ".") {
		return nil, BadFormat
	}
	t := &token{payload: payload}
	if reason := t.header(head); reason != OK {
		return nil, reason
	}
	claims, reason := object(payload, PayloadBadBase64, PayloadBadJSON)
	if reason != OK {
		return nil, reason
	}
	t.claims = claims
	if reason := t.registered(); reason != OK {
		return nil, reason
	}
	b, exact, ok := decode(signature)
	if !ok || !exact {
		return nil, SignatureBadBase64
	}
	t.signature = len(b)
	return t, OK
}

func (t *token) header(text string) Reason {
	header, reason := object(text, HeaderBadBase64, HeaderBadJSON)
	if reason != OK {
		return reason
	}
	var ok bool
	if t.Algorithm, ok = header["alg"].(string); !ok {
		return BadAlgorithm
	}
	if !isAlgorithm(t.Algorithm) {
		return UnknownAlgorithm
	}
	if t.KeyID, ok = optional(header, "kid"); !ok {
		return BadKeyID
	}
	_, crit := header["crit"]
	_, b64 := header["b64"] // RFC 7797, section 7: not in a JWT
	t.critical = crit || b64
	return OK
}

// registered reads the claims that RFC 7519 registers.
func (t *token) registered() Reason {
	var ok bool
	if t.Issuer, ok = optional(t.claims, "iss"); !ok {
		return BadIssuer
	}
	if t.Subject, ok = optional(t.claims, "sub"); !ok {
		return BadSubject
	}
	if _, reason := seconds(t.claims, "iat", BadIssuedAt, IssuedAtOutOfRange); reason != OK {
		return reason
	}
	var reason Reason
	if t.NotBefore, reason = seconds(t.claims, "nbf", BadNotBefore, NotBeforeOutOfRange); reason != OK {
		return reason
	}
	if t.Expires, reason = seconds(t.claims, "exp", BadExpires, ExpiresOutOfRange); reason != OK {
		return reason
	}
	if _, ok = optional(t.claims, "jti"); !ok {
		return BadTokenID
	}
	if t.Audiences, ok = audiences(t.claims); !ok {
		return BadAudience
	}
	return OK
}

// object decodes a section that is a JSON object. One that is not to be had is
// told as Envoy tells it, which takes more for base64 than we do.
func object(section string, badBase64, badJSON Reason) (map[string]any, Reason) {
	b, exact, ok := decode(section)
	if !ok {
		return nil, badBase64
	}
	var m map[string]any
	if !utf8.Valid(b) || json.Unmarshal(b, &m) != nil || m == nil {
		return nil, badJSON
	}
	if !exact {
		return nil, badBase64
	}
	return m, OK
}

// decode decodes a section. It is exact if no other text is that of the same
// bytes: without blanks, padding (RFC 7515, section 2) and bits that are not
// used.
func decode(section string) (b []byte, exact, ok bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(section)
	if err == nil && !strings.ContainsAny(section, "\r\n") { // which the decoder skips
		return b, true, true
	}
	section = strings.TrimRight(strings.Join(strings.Fields(section), ""), "=")
	b, err = base64.RawURLEncoding.DecodeString(section)
	return b, false, err == nil
}

// optional returns a member that is a string, if it is there.
func optional(m map[string]any, name string) (string, bool) {
	v, there := m[name]
	s, ok := v.(string)
	return s, ok || !there
}

// seconds returns a member that is a time, if it is there, or else 0.
func seconds(m map[string]any, name string, wrong, outOfRange Reason) (uint64, Reason) {
	v, there := m[name]
	if !there {
		return 0, OK
	}
	f, ok := v.(float64)
	switch {
	case !ok:
		return 0, wrong
	case f < 0 || f >= 1<<64:
		return 0, outOfRange
	}
	return uint64(f), OK
}

// audiences returns aud, which is a string or a list of them, if it is there.
func audiences(claims map[string]any) (out []string, ok bool) {
	v, there := claims["aud"]
	if !there {
		return nil, true
	}
	switch v := v.(type) {
	case string:
		return []string{v}, true
	case []any:
		for _, item := range v {
			s, ok := item.(string)
			if !ok {
				return nil, false
			}
			out = append(out, s)
		}
		return out, true
	}
	return nil, false
}
