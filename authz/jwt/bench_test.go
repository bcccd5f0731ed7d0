package jwt

import "testing"

// BenchmarkCheck is what a token costs: verified anew, remembered, and none. It
// excludes Apply.
func BenchmarkCheck(b *testing.B) {
	for _, c := range []struct {
		name, key, text string
		fresh           bool
	}{
		{"RS256/verified", "rsa", vectors[1].text, true},
		{"RS256/remembered", "rsa", vectors[1].text, false},
		{"ES256/verified", "ec", vectors[2].text, true},
		{"ES256/remembered", "ec", vectors[2].text, false},
		{"refused/remembered", "ec", vectors[1].text, false},
	} {
		b.Run(c.name, func(b *testing.B) {
			set, ring := joeSet(b, c.key, nil)
			v := NewVerifier(Limits{})
			if c.fresh {
				v = nil
			}
			req := bearer(c.text)
			b.ReportAllocs()
			for b.Loop() {
				set.Check(inTime, req, ring, v)
			}
		})
	}
	b.Run("none", func(b *testing.B) {
		set, ring := joeSet(b, "rsa", nil)
		v := NewVerifier(Limits{})
		req := bearer("")
		req.Fields = nil
		b.ReportAllocs()
		for b.Loop() {
			set.Check(inTime, req, ring, v)
		}
	})
}
