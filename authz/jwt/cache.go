package jwt

import (
	"crypto/sha256"
	"unsafe"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// Limits are those of what a Verifier remembers.
type Limits struct {
	Tokens int // that were valid; 0: 1024
	Bytes  int // for them, about; 0: 4 MiB

	Refused      int // tokens that were not; 0: 512
	RefusedBytes int // 0: 256 KiB
}

// A Verifier remembers which tokens are valid, by a hash of their text, for as
// long as the keys are the same that verified them, until they expire. Those that
// were refused are remembered too, since one may come again and again, but apart:
// however many there are, they do not push out those that are good.
//
// It has one owner, the loop whose requests are checked. The zero Verifier
// remembers nothing.
type Verifier struct {
	good, bad memory

	// Of the Check at work.
	found []found
	gone  []location
	added []l7.Field
}

// NewVerifier returns a Verifier within limits.
func NewVerifier(l Limits) *Verifier {
	or := func(n, otherwise int) int {
		if n == 0 {
			return otherwise
		}
		return n
	}
	return &Verifier{
		good: memory{maxEntries: or(l.Tokens, 1024), maxBytes: or(l.Bytes, 4<<20)},
		bad:  memory{maxEntries: or(l.Refused, 512), maxBytes: or(l.RefusedBytes, 256<<10)},
	}
}

// A sum stands for the text of a token. It has to be one that nobody can find
// two texts for: who did could have the one verified and use the other.
type sum [sha256.Size]byte

// An entry is what is remembered of a token.
type entry struct {
	sum    sum
	reason Reason // why it cannot be read
	head   *Head  // nil if it cannot
	known  []known
	bytes  int // the size of all this, about

	in           *memory // nil: forgotten
	newer, older *entry
}

// known is the outcome of verifying a token by some keys.
type known struct {
	shape   shape
	keys    [sha256.Size]byte
	reason  Reason
	outcome *outcome // if reason is OK
}

// maxKnown is how many outcomes one token has: rules of more shapes verify it
// again each time.
const maxKnown = 4

// find returns the entry of a token and, if it was not known, the token.
func (v *Verifier) find(text string, now uint64) (*entry, *token) {
	s := sum(sha256.Sum256(unsafe.Slice(unsafe.StringData(text), len(text))))
	if e := v.good.entries[s]; e != nil {
		if e.head.expired(now) {
			e.known = nil
			e.size()
			v.bad.add(e)
		} else {
			v.good.add(e)
		}
		return e, nil
	}
	if e := v.bad.entries[s]; e != nil {
		v.bad.add(e)
		return e, nil
	}
	t, reason := parse(text)
	e := &entry{sum: s, reason: reason}
	if t != nil {
		e.head = &t.Head
	}
	e.size()
	v.bad.add(e)
	return e, t
}

// knows returns what is known of a token for a shape and keys, or nil.
func (e *entry) knows(s *shape, keys *Keys) *known {
	for i := range e.known {
		if k := &e.known[i]; k.keys == keys.version && k.shape == *s {
			return k
		}
	}
	return nil
}

// keep remembers an outcome, in the place of that of earlier keys.
func (v *Verifier) keep(e *entry, k known) {
	kept, good := e.known[:0], k.reason == OK
	for _, old := range e.known {
		if old.shape != k.shape {
			kept, good = append(kept, old), good || old.reason == OK
		}
	}
	e.known = append(kept[max(0, len(kept)-maxKnown+1):], k)
	e.size()
	if good {
		v.good.add(e)
	} else {
		v.bad.add(e)
	}
}

// A memory is a bounded set of entries in the order of their last use.
type memory struct {
	maxEntries, maxBytes int

	entries        map[sum]*entry
	newest, oldest *entry
	bytes          int
}

// add makes e the newest entry of m, and takes it from wherever it was. What is
// too much is forgotten, the oldest first, which may be e.
func (m *memory) add(e *entry) {
	if e.in != nil {
		e.in.remove(e)
	}
	if m.maxEntries == 0 {
		return
	}
	if m.entries == nil {
		m.entries = map[sum]*entry{}
	}
	m.entries[e.sum] = e
	m.bytes += e.bytes
	e.in, e.older, e.newer = m, m.newest, nil
	if m.newest != nil {
		m.newest.newer = e
	} else {
		m.oldest = e
	}
	m.newest = e
	for len(m.entries) > m.maxEntries || m.bytes > m.maxBytes {
		m.remove(m.oldest)
	}
}

func (m *memory) remove(e *entry) {
	delete(m.entries, e.sum)
	m.bytes -= e.bytes
	if e.newer != nil {
		e.newer.older = e.older
	} else {
		m.newest = e.older
	}
	if e.older != nil {
		e.older.newer = e.newer
	} else {
		m.oldest = e.newer
	}
	e.in, e.newer, e.older = nil, nil, nil
}

// size sets e.bytes.
func (e *entry) size() {
	n := 2*int(unsafe.Sizeof(*e)) + cap(e.known)*int(unsafe.Sizeof(known{}))
	if h := e.head; h != nil {
		n += int(unsafe.Sizeof(*h)) + len(h.Algorithm) + len(h.KeyID) + len(h.Issuer) + len(h.Subject)
		for _, aud := range h.Audiences {
			n += stringBytes + len(aud)
		}
	}
	for _, k := range e.known {
		if k.outcome != nil {
			n += k.outcome.size()
		}
	}
	e.bytes = n
}

// Sizes in memory, about.
const (
	stringBytes = int(unsafe.Sizeof(""))
	anyBytes    = int(unsafe.Sizeof(any(nil)))
	mapBytes    = 64 // of an empty one
	pairBytes   = 2 * (stringBytes + anyBytes)
)

func (o *outcome) size() int {
	n := int(unsafe.Sizeof(*o)) + int(unsafe.Sizeof(authz.Token{})) + sizeOf(o.token.Claims)
	for _, f := range o.fields {
		n += 2*stringBytes + len(f.Name) + len(f.Value)
	}
	return n + len(o.token.Audiences)*stringBytes
}

// sizeOf returns how much memory a claim holds, about.
func sizeOf(v any) int {
	switch v := v.(type) {
	case string:
		return stringBytes + len(v)
	case []any:
		n := 3 * stringBytes / 2
		for _, item := range v {
			n += anyBytes + sizeOf(item)
		}
		return n
	case map[string]any:
		n := mapBytes
		for name, item := range v {
			n += pairBytes + len(name) + sizeOf(item)
		}
		return n
	}
	return anyBytes
}
