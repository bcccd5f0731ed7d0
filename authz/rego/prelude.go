package rego

import "strings"

// Render writes policies as one module that OPA can evaluate by itself: the
// prelude, and what Module writes. Its answer is data.waystone.authz.answer, on a
// document as Document makes it.
func Render(rules string) string {
	_, rest, _ := strings.Cut(rules, "\n") // the package, which the prelude has said
	return strings.TrimRight(prelude, "\n") + "\n\n" + strings.TrimLeft(rest, "\n")
}
