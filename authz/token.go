package authz

import "strings"

// A Token is what a valid JWT says. It is made once, when the JWT is verified,
// and never changed: requests that carry the same JWT share it.
type Token struct {
	Issuer, Subject string   // iss and sub; "" if it has none
	Presenter       string   // azp
	Audiences       []string // aud, which may be one string or several

	// Claims are all claims, as encoding/json decodes them into an any. A
	// string that is a list of words by its nature, such as scope, is a list
	// already.
	Claims map[string]any
}

// A pair matches a request principal: iss by one matcher, sub by another.
type pair struct{ issuer, subject Matcher }

// NewToken returns the token that has claims, of which it keeps the map.
func NewToken(claims map[string]any) *Token {
	t := &Token{Claims: claims}
	t.Issuer, _ = claims["iss"].(string)
	t.Subject, _ = claims["sub"].(string)
	t.Presenter, _ = claims["azp"].(string)
	switch aud := claims["aud"].(type) {
	case string:
		t.Audiences = []string{aud}
	case []any:
		for _, item := range aud {
			if s, ok := item.(string); ok {
				t.Audiences = append(t.Audiences, s)
			}
		}
	}
	return t
}

// requestPrincipal reads a request principal of AuthorizationPolicy. It is cut
// at its last slash, since an issuer may be a URL:
//
//   - any issuer, any subject
//     *x/y   an issuer that ends with x, the subject y
//     */y    any issuer, the subject y
//     *y     any issuer, a subject that ends with y
//     x/y*   the issuer x, a subject that begins with y
//     x/*    the issuer x, any subject
//     x*     an issuer that begins with x, any subject
//     x/y    the issuer x, the subject y
//
// A claim that the token has not matches nothing.
func requestPrincipal(s string) Matcher {
	m := Matcher{kind: kindPair, s: s, pair: &pair{NonEmpty(), NonEmpty()}}
	p, cut := m.pair, strings.LastIndexByte(s, '/')
	head, headed := strings.CutPrefix(s, "*")
	_, tailed := strings.CutSuffix(s, "*")
	switch {
	case s == "*":
	case headed && cut < 0:
		p.subject = Suffix(head)
	case headed:
		if cut > 1 {
			p.issuer = Suffix(s[1:cut])
		}
		p.subject = Exact(s[cut+1:])
	case tailed && cut < 0:
		p.issuer = Prefix(s[:len(s)-1])
	case tailed:
		p.issuer = Exact(s[:cut])
		if cut < len(s)-2 {
			p.subject = Prefix(s[cut+1 : len(s)-1])
		}
	case cut < 0:
		p.issuer, p.subject = Exact(s), Exact("")
	default:
		p.issuer, p.subject = Exact(s[:cut]), Exact(s[cut+1:])
	}
	return m
}

func (m *Matcher) token(t *Token) bool {
	return m.kind == kindPair && m.pair.issuer.text(t.Issuer) && m.pair.subject.text(t.Subject) && t.has("iss", t.Issuer) && t.has("sub", t.Subject)
}

// has reports whether t has the claim called name, of which value is the text.
func (t *Token) has(name, value string) bool {
	if value != "" {
		return true
	}
	_, there := t.Claims[name].(string)
	return there
}

// claim returns the claim at path, or nil.
func (t *Token) claim(path []string) any {
	claims, last := t.Claims, len(path)-1
	for _, name := range path[:last] {
		claims, _ = claims[name].(map[string]any)
	}
	return claims[path[last]]
}

// claim tests a claim: a string, or any string in a list. What is neither does
// not match.
func (m *Matcher) claim(v any) bool {
	switch v := v.(type) {
	case string:
		return m.text(v)
	case []any:
		for _, item := range v {
			if s, ok := item.(string); ok && m.text(s) {
				return true
			}
		}
	}
	return false
}
