package telemetry

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"strings"
)

// A Trace is one place in a distributed trace: the trace, and a span in it. The
// zero Trace is none.
//
// A node tunnel exports no spans; it makes a Trace for each connection to tie
// its log lines to those of the tunnel at the other end.
type Trace struct {
	ID      [16]byte
	Span    [8]byte
	Sampled bool
}

// NewTrace returns a Trace with random IDs that is not sampled. They name
// things and guard nothing, so they come from the fast generator.
func NewTrace() Trace {
	var t Trace
	binary.NativeEndian.PutUint64(t.ID[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(t.ID[8:], rand.Uint64()|1) // never all zero
	binary.NativeEndian.PutUint64(t.Span[:], rand.Uint64()|1)
	return t
}

// IsZero reports whether t is no trace.
func (t Trace) IsZero() bool { return t.ID == [16]byte{} }

// ParseTraceparent reads a traceparent field (W3C Trace Context, section 3.2),
// and reports whether it is valid. Of a version later than 00 it reads what 00
// has, as the specification asks.
func ParseTraceparent(s string) (Trace, bool) {
	var t Trace
	var version, flags [1]byte
	if len(s) < 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' ||
		!lowerHex(version[:], s[:2]) || !lowerHex(t.ID[:], s[3:35]) ||
		!lowerHex(t.Span[:], s[36:52]) || !lowerHex(flags[:], s[53:55]) {
		return Trace{}, false
	}
	switch {
	case version[0] == 0xff, t.IsZero(), t.Span == [8]byte{}:
		return Trace{}, false
	case len(s) > 55 && (version[0] == 0 || s[55] != '-'):
		return Trace{}, false
	}
	t.Sampled = flags[0]&1 != 0
	return t, true
}

// lowerHex decodes s, twice as long as dst, which must be in lower case.
func lowerHex(dst []byte, s string) bool {
	for i := range dst {
		hi, lo := strings.IndexByte(hexDigits, s[2*i]), strings.IndexByte(hexDigits, s[2*i+1])
		if hi < 0 || lo < 0 {
			return false
		}
		dst[i] = byte(hi<<4 | lo)
	}
	return true
}

// Traceparent returns t as a traceparent field, or "" for the zero Trace.
func (t Trace) Traceparent() string {
	if t.IsZero() {
		return ""
	}
	b := make([]byte, 0, 55)
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, t.ID[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, t.Span[:])
	if t.Sampled {
		return string(append(b, "-01"...))
	}
	return string(append(b, "-00"...))
}

// A Carrier is the fields of a request. Names are in lower case; Get returns ""
// for a field that is not there.
type Carrier interface {
	Get(name string) string
	Set(name, value string)
}

// A decision is what a caller said about sampling.
type decision uint8

const (
	undecided decision = iota
	sampled
	unsampled
)

// extract returns the trace a request belongs to: by traceparent, else by b3,
// else by X-B3-*. The zero Trace may come with a decision.
func extract(c Carrier) (Trace, decision) {
	if s := c.Get("traceparent"); s != "" {
		if t, ok := ParseTraceparent(s); ok {
			return t, decided(t.Sampled)
		}
	}
	if s := c.Get("b3"); s != "" {
		if t, d, ok := parseB3(s); ok {
			return t, d
		}
	}
	d := b3Decision(c.Get("x-b3-sampled"))
	if c.Get("x-b3-flags") == "1" { // debug, which implies sampled
		d = sampled
	}
	t, ok := b3IDs(c.Get("x-b3-traceid"), c.Get("x-b3-spanid"))
	if !ok {
		return Trace{}, d
	}
	t.Sampled = d == sampled
	return t, d
}

func decided(yes bool) decision {
	if yes {
		return sampled
	}
	return unsampled
}

// parseB3 reads the single field: trace-span, trace-span-decision,
// trace-span-decision-parent, or a decision alone.
func parseB3(s string) (Trace, decision, bool) {
	if !strings.Contains(s, "-") {
		d := b3Decision(s)
		return Trace{}, d, d != undecided
	}
	id, rest, _ := strings.Cut(s, "-")
	span, rest, more := strings.Cut(rest, "-")
	t, ok := b3IDs(id, span)
	if !ok {
		return Trace{}, undecided, false
	}
	word, _, _ := strings.Cut(rest, "-")
	d := b3Decision(word)
	if more && d == undecided {
		return Trace{}, undecided, false
	}
	t.Sampled = d == sampled
	return t, d, true
}

func b3Decision(s string) decision {
	switch s {
	case "1", "d", "true":
		return sampled
	case "0", "false":
		return unsampled
	}
	return undecided
}

// b3IDs reads a trace ID of 16 or 32 digits and a span ID.
func b3IDs(id, span string) (t Trace, ok bool) {
	if len(span) != 16 || len(id) != 16 && len(id) != 32 {
		return Trace{}, false
	}
	// B3 does not ask for lower case, though everybody writes it.
	ok = lowerHex(t.ID[16-len(id)/2:], strings.ToLower(id)) && lowerHex(t.Span[:], strings.ToLower(span))
	if !ok || t.IsZero() || t.Span == [8]byte{} {
		return Trace{}, false
	}
	return t, true
}

// inject writes t into a request: as traceparent, and in each form of B3 that
// the request came with.
func inject(c Carrier, t Trace, b3 bool) {
	c.Set("traceparent", t.Traceparent())
	single, multi := c.Get("b3") != "", b3 || c.Get("x-b3-traceid") != "" || c.Get("x-b3-sampled") != ""
	if !single && !multi {
		return
	}
	id, span, yes := hex.EncodeToString(t.ID[:]), hex.EncodeToString(t.Span[:]), "0"
	if t.Sampled {
		yes = "1"
	}
	if single {
		c.Set("b3", id+"-"+span+"-"+yes)
	}
	if multi {
		if parent := c.Get("x-b3-spanid"); parent != "" {
			c.Set("x-b3-parentspanid", parent)
		}
		c.Set("x-b3-traceid", id)
		c.Set("x-b3-spanid", span)
		c.Set("x-b3-sampled", yes)
	}
}
