package authz

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// redacted stands for a value that is not for people.
const redacted = "(redacted)"

// secretNames are parts of the names of what holds secrets.
var secretNames = []string{"authorization", "cookie", "token", "secret", "password", "credential", "session", "api-key", "api_key", "apikey"}

// IsSecret reports whether a header field, or a parameter, that is called name
// holds a secret, as far as its name tells: it is then shown to nobody.
func IsSecret(name string) bool {
	name = strings.ToLower(name)
	for _, part := range secretNames {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// redactHeader returns the value of a header field as it may be shown. Of the
// request target, the query may hold a token.
func redactHeader(name, value string) string {
	switch {
	case value != "" && IsSecret(name):
		return redacted
	case name == ":path":
		path, _, query := strings.Cut(value, "?")
		if query {
			return path + "?" + redacted
		}
	}
	return value
}

// longest is how much of a value is shown.
const longest = 256

// redact returns a value as it may be shown wherever it comes from: not if it
// looks like a JWT, and not all of it if it is long.
func redact(text string) string {
	if i := strings.Index(text, "eyJ"); i >= 0 && strings.Count(text[i:], ".") >= 2 {
		return redacted
	}
	if len(text) <= longest {
		return text
	}
	cut := longest
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}

func portText(port uint16) string { return strconv.Itoa(int(port)) }

// tokenText returns what a token says to e.
func tokenText(t *Token, e *Expr) (string, bool) {
	if t == nil {
		return "", false
	}
	if e.attr == RequestPrincipal {
		return t.Issuer + "/" + t.Subject, t.Issuer != "" || t.Subject != ""
	}
	return claimText(t.claim(e.path))
}

// claimText returns a claim in one line: the items of a list with commas between
// them.
func claimText(v any) (string, bool) {
	switch v := v.(type) {
	case nil:
		return "", false
	case string:
		return v, true
	case []any:
		var items []string
		for _, item := range v {
			text, _ := claimText(item)
			items = append(items, text)
		}
		return strings.Join(items, ", "), true
	case map[string]any:
		return "an object", true
	}
	return fmt.Sprint(v), true
}
