package authz

import "math"

// NewSetForTest returns the Set of entries with an index for lists of more than
// short items; a negative number stands for none.
func NewSetForTest(entries []Entry, short int) *Set {
	if short < 0 {
		short = math.MaxInt
	}
	return newSet(entries, short)
}

// GuardsForTest returns what e is found by, as the index has it.
func GuardsForTest(e *Expr) (out []string) {
	names := [guardKinds]string{"principal", "account", "path", "namespace", "method"}
	for _, keys := range guardsOf(e) {
		for _, k := range keys {
			text := names[k.kind] + "=" + k.text
			if k.prefix {
				text += "*"
			}
			out = append(out, text)
		}
	}
	return out
}
