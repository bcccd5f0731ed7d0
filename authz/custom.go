package authz

import (
	"slices"
	"strings"
)

// What the log calls the rules of CUSTOM policies: customPrefix, the provider,
// and what it calls other rules; and unusable if there is no such provider.
const (
	customPrefix = "istio-ext-authz-"
	unusable     = "-deny-due-to-bad-CUSTOM-action"
)

// A Question is what stands between a request and its verdict: a CUSTOM rule
// matches it, and its provider must be asked. Questions belong to the Set.
type Question struct {
	Provider string
	ID       string  // the rule that matched, as the log names it: istio-ext-authz-…
	Policy   *Policy // where it comes from
	Rule     int

	entry *Entry
}

// A group is the CUSTOM entries of one provider.
type group struct {
	provider string
	list     list
}

// ask adds e, which asks, to the group of its provider; groups are in the
// order of their providers.
func (d *decider) ask(e *Entry, x *Expr) {
	i, found := slices.BinarySearchFunc(d.custom, e.Provider, func(g group, name string) int { return strings.Compare(g.provider, name) })
	if !found {
		d.custom = slices.Insert(d.custom, i, group{provider: e.Provider})
	}
	d.custom[i].list.add(e, x)
}

// Asks reports whether there are CUSTOM policies at all whose providers can be
// asked: if not, Ask returns nil whatever the input.
func (s *Set) Asks() bool { return s != nil && (s.http.custom != nil || s.opaque.custom != nil) }

// Ask returns what must be asked about in, or nil if nothing must, or must any
// more. Providers are asked in the order of their names, each once at most: the
// first time after is nil, and then the Question that was answered with yes.
// What an answer has changed in the request counts for the questions after it.
//
//	for q := set.Ask(in, nil); q != nil; q = set.Ask(in, q) {
//		ask q.Provider, and refuse if it says no
//	}
//	v := set.Decide(in)
func (s *Set) Ask(in *Input, after *Question) *Question {
	if s == nil {
		return nil
	}
	d := s.of(in)
	if d.custom == nil {
		return nil
	}
	var f facts
	f.read(in)
	return d.question(&f, after)
}

func (d *decider) question(f *facts, after *Question) *Question {
	for i := range d.custom {
		g := &d.custom[i]
		if after != nil && g.provider <= after.Provider {
			continue
		}
		if e := g.list.first(f); e != nil {
			return e.question
		}
	}
	return nil
}
