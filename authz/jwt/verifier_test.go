package jwt

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// joeSet takes the tokens of RFC 7515, appendix A.2, which expired in 2011.
func joeSet(t testing.TB, key string, with func(*Rule)) (*Set, Ring) {
	t.Helper()
	r := Rule{Issuer: "joe", JWKSURI: "http://keys.example"}
	if with != nil {
		with(&r)
	}
	set, err := Compile(Options{}, &RequestAuthentication{Name: "p", Namespace: "default", Rules: []Rule{r}})
	if err != nil {
		t.Fatal(err)
	}
	return set, Ring{{URI: "http://keys.example"}: vectorKeys(t, key)}
}

var inTime = time.Unix(1300819380, 0)

func bearer(text string) *l7.Request {
	return &l7.Request{Method: "GET", Scheme: "http", Authority: "items", Path: "/", Fields: l7.Fields{{Name: "authorization", Value: "Bearer " + text}}}
}

// counts returns how many tokens v remembers: good ones and others.
func (v *Verifier) counts() [2]int { return [2]int{len(v.good.entries), len(v.bad.entries)} }

func TestVerifierForgets(t *testing.T) {
	set, ring := joeSet(t, "rsa", nil)
	none := Ring{}
	other := Ring{{URI: "http://keys.example"}: vectorKeys(t, "rsa2")}
	v := NewVerifier(Limits{})
	text := vectors[1].text
	for i, step := range []struct {
		what string
		now  time.Time
		ring Ring
		want Reason
		are  [2]int
	}{
		{"no keys yet", inTime, none, KeysNotFetched, [2]int{0, 1}},
		{"keys", inTime, ring, OK, [2]int{1, 0}},
		{"again", inTime, ring, OK, [2]int{1, 0}},
		{"no keys any more", inTime, none, KeysNotFetched, [2]int{1, 0}},
		{"other keys", inTime, other, VerificationFails, [2]int{0, 1}},
		{"the first keys", inTime, ring, OK, [2]int{1, 0}},
		{"the last second", inTime.Add(60 * time.Second), ring, OK, [2]int{1, 0}},
		{"expired", inTime.Add(61 * time.Second), ring, Expired, [2]int{0, 1}},
		{"the clock is set back", inTime, ring, OK, [2]int{1, 0}},
	} {
		res := set.Check(step.now, bearer(text), step.ring, v)
		if res.Reason != step.want || res.Allowed != (step.want == OK) || (res.Token != nil) != res.Allowed {
			t.Errorf("step %d, %s: got %+v, want %v", i, step.what, res, step.want)
		}
		if got := v.counts(); got != step.are {
			t.Errorf("step %d, %s: %d good and bad tokens, want %d", i, step.what, got, step.are)
		}
		if res.Seen == nil || res.Seen.Issuer != "joe" {
			t.Errorf("step %d, %s: saw %+v", i, step.what, res.Seen)
		}
	}
}

func TestGarbageDoesNotPushOutGoodTokens(t *testing.T) {
	set, ring := joeSet(t, "rsa", nil)
	v := NewVerifier(Limits{Tokens: 1, Refused: 4, RefusedBytes: 1 << 20})
	good := set.Check(inTime, bearer(vectors[1].text), ring, v).Token
	for i := range 100 {
		set.Check(inTime, bearer(fmt.Sprintf("%d", i)), ring, v)
		set.Check(inTime, bearer(vectors[1].text[:len(vectors[1].text)-6]+fmt.Sprintf("%06d", i)), ring, v)
	}
	if got, want := v.counts(), [2]int{1, 4}; got != want {
		t.Errorf("%d good and bad tokens, want %d", got, want)
	}
	if again := set.Check(inTime, bearer(vectors[1].text), ring, v).Token; again != good {
		t.Error("the good token was verified anew")
	}
}

func TestMemoryIsBounded(t *testing.T) {
	entryOf := func(i, bytes int) *entry { return &entry{sum: sum{byte(i), byte(i >> 8)}, bytes: bytes} }
	m := memory{maxEntries: 3, maxBytes: 100}
	all := make([]*entry, 6)
	for i := range all {
		all[i] = entryOf(i, 20)
	}
	check := func(what string, want ...int) {
		t.Helper()
		var got []int
		bytes := 0
		for e := m.newest; e != nil; e = e.older {
			got = append(got, int(e.sum[0]))
			bytes += e.bytes
			if m.entries[e.sum] != e || e.in != &m || e.older != nil && e.older.newer != e || e.older == nil && m.oldest != e {
				t.Errorf("%s: the list is broken at %d", what, e.sum[0])
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || len(m.entries) != len(want) || m.bytes != bytes {
			t.Errorf("%s: got %d of %d bytes, want %d", what, got, m.bytes, want)
		}
	}
	m.add(all[0])
	m.add(all[1])
	m.add(all[2])
	check("three", 2, 1, 0)
	m.add(all[0])
	check("used", 0, 2, 1)
	m.add(all[3])
	check("a fourth", 3, 0, 2)
	m.remove(all[0])
	check("removed from the middle", 3, 2)
	big := entryOf(4, 90)
	m.add(big)
	check("a large one", 4)
	m.add(entryOf(5, 101))
	check("one that is too large")
	if m.newest != nil || m.oldest != nil {
		t.Error("the list is not empty")
	}
	var none memory
	none.add(all[5])
	if all[5].in != nil || none.entries != nil {
		t.Error("the zero memory remembers")
	}
}

func TestOutcomesOfOneTokenAreBounded(t *testing.T) {
	keys := vectorKeys(t, "rsa")
	v := NewVerifier(Limits{})
	ring := Ring{{URI: "http://keys.example"}: keys}
	for i := range 10 {
		set, _ := joeSet(t, "rsa", func(r *Rule) { r.OutputPayloadToHeader = fmt.Sprintf("x-%d", i) })
		for range 2 {
			res := set.Check(inTime, bearer(vectors[1].text), ring, v)
			if inside(res.added[0].Value, vectors[1].text) {
				t.Errorf("rule %d: the payload is a view of the token", i)
			}
			if len(res.added) != 1 || res.added[0].Name != fmt.Sprintf("x-%d", i) || res.added[0].Value != joe {
				t.Errorf("rule %d: adds %v", i, res.added)
			}
		}
	}
	for _, e := range v.good.entries {
		if len(e.known) != maxKnown {
			t.Errorf("%d outcomes, want %d", len(e.known), maxKnown)
		}
	}
}

// inside reports whether s is a view of text.
func inside(s, text string) bool {
	at, from := uintptr(unsafe.Pointer(unsafe.StringData(s))), uintptr(unsafe.Pointer(unsafe.StringData(text)))
	return from <= at && at < from+uintptr(len(text))
}

// TestVerifierKeepsNoToken looks for the texts of tokens in all that a Verifier
// holds on to.
func TestVerifierKeepsNoToken(t *testing.T) {
	set, ring := joeSet(t, "rsa", func(r *Rule) { r.OutputPayloadToHeader = "x-payload" })
	v := NewVerifier(Limits{})
	for _, text := range []string{vectors[1].text, vectors[2].text, "nonsense.nonsense.nonsense"} {
		set.Check(inTime, bearer(text), ring, v)
		signature := text[strings.LastIndexByte(text, '.')+1:]
		for _, s := range stringsIn(reflect.ValueOf(v), map[uintptr]bool{}) {
			if strings.Contains(s, signature) {
				t.Errorf("the Verifier holds %q", s)
			}
		}
	}
	if n := len(stringsIn(reflect.ValueOf(v), map[uintptr]bool{})); n < 5 {
		t.Errorf("found %d strings: the search is broken", n)
	}
}

// stringsIn returns every string that can be reached from x.
func stringsIn(x reflect.Value, seen map[uintptr]bool) (out []string) {
	switch x.Kind() {
	case reflect.String:
		return []string{x.String()}
	case reflect.Pointer:
		if x.IsNil() || seen[x.Pointer()] {
			return nil
		}
		seen[x.Pointer()] = true
		return stringsIn(x.Elem(), seen)
	case reflect.Interface:
		if !x.IsNil() {
			return stringsIn(x.Elem(), seen)
		}
	case reflect.Struct:
		for i := range x.NumField() {
			out = append(out, stringsIn(x.Field(i), seen)...)
		}
	case reflect.Map:
		for _, k := range x.MapKeys() {
			out = append(append(out, stringsIn(k, seen)...), stringsIn(x.MapIndex(k), seen)...)
		}
	case reflect.Slice:
		for i := range x.Cap() { // what is behind the end is held, too
			out = append(out, stringsIn(x.Slice(0, x.Cap()).Index(i), seen)...)
		}
	case reflect.Array:
		for i := range x.Len() {
			out = append(out, stringsIn(x.Index(i), seen)...)
		}
	}
	return out
}

func TestSizeGrowsWithClaims(t *testing.T) {
	small := (&outcome{token: authz.NewToken(map[string]any{"iss": "a"})}).size()
	for _, claims := range []map[string]any{
		{"iss": "a", "x": strings.Repeat("x", 1000)},
		{"iss": "a", "x": []any{strings.Repeat("x", 1000)}},
		{"iss": "a", "x": map[string]any{"y": strings.Repeat("x", 1000)}},
		{"iss": "a", "x": make([]any, 100)},
	} {
		if got := (&outcome{token: authz.NewToken(claims)}).size(); got < small+1000 {
			t.Errorf("%d bytes, and %d for the issuer alone", got, small)
		}
	}
}

func TestCheckAllocs(t *testing.T) {
	v := NewVerifier(Limits{})
	for _, c := range []struct {
		what string
		req  *l7.Request
		with func(*Rule)
		want bool
	}{
		{"no token", &l7.Request{Method: "GET", Path: "/?a=b"}, nil, true},
		{"a good token", bearer(vectors[1].text), nil, true},
		{"one that is written on", bearer(vectors[1].text), func(r *Rule) { r.OutputPayloadToHeader = "x" }, true},
		{"a bad token", bearer("nonsense"), nil, false},
	} {
		set, ring := joeSet(t, "rsa", c.with)
		check := func() {
			if res := set.Check(inTime, c.req, ring, v); res.Allowed != c.want {
				t.Errorf("%s: %v", c.what, res.Reason)
			}
		}
		check()
		if n := testing.AllocsPerRun(100, check); n != 0 {
			t.Errorf("%s: %v allocations, want 0", c.what, n)
		}
	}
}
