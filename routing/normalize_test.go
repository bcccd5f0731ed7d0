package routing

import (
	"errors"
	"strings"
	"testing"
)

var normalizations = []Normalization{NormalizeNone, NormalizeBase, MergeSlashes, DecodeAndMergeSlashes}

func TestNormalizeLeavesANormalPathWithoutAllocating(t *testing.T) {
	const path = "/productpage/a.b/..c/%20%2e?x=/../%2e"
	want := "/productpage/a.b/..c/%20.?x=/../%2e"
	for _, n := range normalizations[1:] {
		if got, err := Normalize(n, path); got != want || err != nil {
			t.Errorf("%v: %q, %v, want %q", n, got, err, want)
		}
		got := testing.AllocsPerRun(100, func() { _, _ = Normalize(n, want) })
		if got != 0 {
			t.Errorf("%v: %v allocations, want 0", n, got)
		}
	}
}

func TestNormalizeRefusesControlCharacters(t *testing.T) {
	for c := range 256 {
		for _, path := range []string{"/a" + string([]byte{byte(c)}), "/a?b" + string([]byte{byte(c)})} {
			_, err := Normalize(NormalizeNone, path)
			if refused := c <= ' ' || c == 0x7f; errors.Is(err, ErrPathControl) != refused {
				t.Errorf("%q: error %v", path, err)
			}
		}
	}
}

func TestParseNormalization(t *testing.T) {
	for _, n := range normalizations {
		if got, err := ParseNormalization(n.String()); got != n || err != nil {
			t.Errorf("%v: %v, %v", n, got, err)
		}
	}
	if got, err := ParseNormalization("DEFAULT"); got != NormalizeBase || err != nil {
		t.Errorf("DEFAULT: %v, %v, want BASE", got, err)
	}
	if _, err := ParseNormalization("base"); err == nil {
		t.Error("base: no error")
	}
}

func FuzzNormalize(f *testing.F) {
	for _, s := range []string{"/", "*", "/a/../b", "/a\\..\\b", "/%2e%2E/x", "/%%32e", "/%2%65", "/a//b?c//d", "/%252f..%2f", "/..%5c.%2f", "/a/.%2e?#"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		for _, n := range normalizations {
			once, err := Normalize(n, path)
			if err != nil {
				continue
			}
			twice, err := Normalize(n, once)
			if err != nil || twice != once {
				t.Fatalf("%v: %q gives %q, and that gives %q, %v", n, path, once, twice, err)
			}
			if n == NormalizeNone || once == "*" {
				continue
			}
			p, query, _ := strings.Cut(once, "?")
			if _, q, _ := strings.Cut(path, "?"); q != query {
				t.Fatalf("%v: %q gives %q: the query changed", n, path, once)
			}
			for s := range strings.SplitSeq(p, "/") {
				if s == "." || s == ".." {
					t.Fatalf("%v: %q gives %q, which has dot segments", n, path, once)
				}
			}
			if n != NormalizeBase && strings.Contains(p, "//") {
				t.Fatalf("%v: %q gives %q, which has double slashes", n, path, once)
			}
			if strings.Contains(p, "\\") || p[0] != '/' {
				t.Fatalf("%v: %q gives %q", n, path, once)
			}
		}
	})
}

// BenchmarkNormalize is of the default normalisation.
func BenchmarkNormalize(b *testing.B) {
	for _, bb := range []struct{ name, path string }{
		{"normal", "/productpage/reviews/0?format=json"},
		{"dots", "/productpage/./reviews/../0?format=json"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Normalize(NormalizeBase, bb.path); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
