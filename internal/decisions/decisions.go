// Package decisions keeps the last decisions of policy, with the reasons why, for
// whoever asks what has just been refused.
//
// It is bounded in every way. So many refusals are kept and so many requests that
// were allowed, apart from one another, so that a flood of one kind does not drown
// the other; both take so many bytes at most; and of what comes faster than
// anybody reads, only some is wanted at all: to explain a decision takes longer
// than to make it.
//
// It holds no field of a request, no content, no query and no token.
package decisions

import (
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/identity"
)

// A Decision is what became of a request or a connection, and why.
type Decision struct {
	At      time.Time
	Allowed bool // by policy, and before it by the rules about JWTs and by authorizers
	Status  int  // of the response; 0: none, or not known

	Source           identity.ID // zero: a client without a certificate
	SourceWorkload   string      // namespace/name, or ""
	SourceIP         netip.Addr
	RequestPrincipal string // iss/sub of the valid JWT, or ""

	Destination string // what was asked for: host:port
	Method      string // "" of what is not HTTP, and so of the next two
	Host, Path  string // Path without its query; what follows a "?" is cut off
	RequestID   string

	// Explanation is what policy says: Brief's. It is nil if policy was not asked.
	Explanation *authz.Explanation

	Token    string // why a JWT was refused, in Envoy's words; never the JWT
	Provider string // why an authorizer refused, after its name: "opa: denied"
	Why      string // in a line, if it was either of them, and by which rule
}

// So many allowed ones are kept for each refusal, one in so many.
const allowedShare = 4

// The rates at which decisions are wanted, in a second, and at first at once.
const (
	refusedRate = 200
	allowedRate = 10
)

// eachBytes is what is reckoned for one decision: together they take no more, one
// alone may.
const eachBytes = 4 << 10

// A Recent keeps decisions. It is safe for concurrent use. A nil Recent wants none
// and keeps none.
type Recent struct {
	refused, allowed ring
	age              func() time.Duration // since New; monotonic
}

// New returns a Recent that keeps the last size refusals, and a quarter as many
// requests that were allowed. 0 is 256: at most 1¼ MiB.
func New(size int) *Recent {
	if size <= 0 {
		size = 256
	}
	start := time.Now()
	r := &Recent{age: func() time.Duration { return time.Since(start) }}
	r.refused.init(size, refusedRate)
	r.allowed.init(max(size/allowedShare, 1), allowedRate)
	return r
}

// Wants reports whether a decision is worth explaining for Add, and counts those
// that are not. It takes no lock.
func (r *Recent) Wants(allowed bool) bool {
	if r == nil {
		return false
	}
	k := r.of(allowed)
	if k.pace.take(r.age()) {
		return true
	}
	k.missed.Add(1)
	return false
}

// Add keeps d, which is the Recent's from now on. Its strings are copied.
func (r *Recent) Add(d *Decision) {
	if r == nil {
		return
	}
	d.own()
	size := d.fit()
	r.of(d.Allowed).add(entry{d, size, r.age()})
}

func (r *Recent) of(allowed bool) *ring {
	if allowed {
		return &r.allowed
	}
	return &r.refused
}

// A pace is a token bucket that holds a second's worth: next is when, at the rate,
// the last one taken would have been due.
type pace struct {
	every time.Duration // immutable
	next  atomic.Int64
}

func (p *pace) take(now time.Duration) bool {
	for {
		next := p.next.Load()
		if time.Duration(next) > now+time.Second-p.every {
			return false
		}
		if p.next.CompareAndSwap(next, max(next, int64(now))+int64(p.every)) {
			return true
		}
	}
}

// A ring is the last decisions of one kind.
type ring struct {
	pace   pace
	missed atomic.Uint64 // not wanted

	// Guarded by mu.
	mu      sync.Mutex
	entries []entry // in use are n from first on, around the end
	first   int
	n       int
	bytes   int
	dropped uint64 // made room for others
}

type entry struct {
	*Decision
	size  int
	added time.Duration
}

func (k *ring) init(size, rate int) {
	k.entries = make([]entry, size)
	k.pace.every = time.Second / time.Duration(rate)
}

func (k *ring) add(e entry) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for k.n > 0 && (k.n == len(k.entries) || k.bytes+e.size > len(k.entries)*eachBytes) {
		k.bytes -= k.entries[k.first].size
		k.entries[k.first] = entry{}
		k.first = (k.first + 1) % len(k.entries)
		k.n--
		k.dropped++
	}
	k.entries[(k.first+k.n)%len(k.entries)] = e
	k.n++
	k.bytes += e.size
}

// all returns what is kept, the newest first, and how many are not.
func (k *ring) all() (list []entry, lost uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	list = make([]entry, 0, k.n)
	for i := k.n - 1; i >= 0; i-- {
		list = append(list, k.entries[(k.first+i)%len(k.entries)])
	}
	return list, k.dropped + k.missed.Load()
}

// own copies the strings of d, which are a request's, and cuts them where they are
// longer than anybody reads.
func (d *Decision) own() {
	d.Path, _, _ = strings.Cut(d.Path, "?")
	d.Path, _, _ = strings.Cut(d.Path, "#")
	for _, s := range [...]*string{
		&d.SourceWorkload, &d.RequestPrincipal, &d.Destination, &d.Method, &d.Host, &d.Path, &d.RequestID, &d.Token, &d.Provider, &d.Why,
		&d.Source.TrustDomain, &d.Source.Namespace, &d.Source.ServiceAccount,
	} {
		*s = clip(*s)
	}
}

// longest is how much of a string is kept: what of a path or a name is over 256
// bytes tells nobody more.
const longest = 256

func clip(s string) string {
	if len(s) <= longest {
		return strings.Clone(s)
	}
	cut := longest
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
