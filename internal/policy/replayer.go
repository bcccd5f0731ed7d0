package policy

import (
	"errors"
	"net/netip"
	"strings"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/identity"
	"github.com/waystone-mesh/waystone/internal/l7"
	"github.com/waystone-mesh/waystone/routing"
)

// A replayer holds lines against policies. It is one goroutine's.
type replayer struct {
	*comparison
	*tally
	targets map[string]*target

	// Of the line at hand.
	line  logLine
	head  l7.Request
	in    authz.Input
	known authz.Known
	key   []byte // that its judgement is remembered by
}

func newReplayer(c *comparison) *replayer {
	return &replayer{comparison: c, tally: newTally(), targets: map[string]*target{}}
}

var errTooLong = errors.New("it is longer than 1 MiB")

// chunk looks at every line of c, and returns how many there are.
func (r *replayer) chunk(c *chunk) int64 {
	if c.tooBy {
		r.bad(c.log, c.line, errTooLong)
		return 1
	}
	number, n := c.line, int64(0)
	for text := range strings.Lines(c.text) {
		if strings.TrimSpace(text) != "" {
			n++
			if err := r.line.read(text); err != nil {
				r.bad(c.log, number, err)
			} else {
				r.request(c.log, number)
			}
		}
		number++
	}
	return n
}

// request looks at the request that the line tells of.
func (r *replayer) request(log string, number int64) {
	r.lines++
	l := &r.line
	before := l.decision()
	t := r.target(l)
	if t == nil {
		r.count(log, number, change{kind: undetermined}, []string{"the destination: it is not in the manifests"})
		return
	}
	if !r.read(t) {
		r.notJudged++
		return
	}
	after := r.after(t, &before)
	if r.o.Base != nil {
		was := r.side(t, &t.base, &before, true)
		r.agree(&before, &was)
		if was.result != authz.Unknown || before.result == authz.Unknown {
			before = was
		}
	}
	r.compare(log, number, t, &before, &after)
}

// read reads the input from the line, as far as it is there. It reports false if
// no policy was ever asked: the path cannot be one.
func (r *replayer) read(t *target) bool {
	l := &r.line
	r.in = authz.Input{Dest: t.dest}
	r.known = authz.Known{Fields: r.known.Fields[:0], Blank: r.known.Blank[:0], Lack: t.lack}
	r.peer(l)
	if a, ok := addressIn(l.downstreamRemote); ok {
		r.in.Source = a.Addr()
	} else {
		r.known.Lack |= authz.Lacking(authz.SourceIP)
	}
	if !l.serverName.there || garbled(l.serverName.text) {
		r.known.Lack |= authz.Lacking(authz.SNI)
	} else {
		r.in.SNI = l.serverName.text
	}
	if _, http := l.method.has(); !http {
		return true
	}
	return r.http(l)
}

// garbled reports whether text is not what the client sent: what is not UTF-8 is
// replaced in a log.
func garbled(text string) bool { return strings.Contains(text, "\ufffd") }

// http reads the head of a request.
func (r *replayer) http(l *logLine) bool {
	r.head = l7.Request{Method: l.method.text, Scheme: "http", Authority: l.authority.text, Path: l.path.text, Fields: r.head.Fields[:0]}
	r.in.HTTP = &r.head
	lack := authz.Lacking(authz.Header)
	if !l.authority.there || garbled(l.authority.text) {
		lack |= authz.Lacking(authz.Host)
	}
	path, ok := l.path.has()
	if !ok || garbled(path) {
		lack |= authz.Lacking(authz.Path)
	} else {
		normal, err := routing.Normalize(r.normalization, path)
		if err != nil {
			return false
		}
		r.head.Path = normal
		r.known.NoQuery = strings.Contains(path, "(redacted)")
	}
	r.known.Lack |= lack
	r.field("user-agent", l.userAgent)
	r.field("x-forwarded-for", l.forwardedFor)
	return true
}

// field reads a header field. One that is null was not there, or empty.
func (r *replayer) field(name string, v value) {
	switch {
	case !v.there || garbled(v.text):
	case v.null:
		r.known.Blank = append(r.known.Blank, name)
	default:
		r.known.Fields = append(r.known.Fields, name)
		r.head.Fields = append(r.head.Fields, l7.Field{Name: name, Value: v.text})
	}
}

// peer reads who the client is.
func (r *replayer) peer(l *logLine) {
	p := l.sourcePrincipal
	if !p.there {
		r.known.Lack |= authz.Lacking(authz.Principal)
		return
	}
	if p.null || p.text == "" {
		return
	}
	td, rest, ok1 := strings.Cut(strings.TrimPrefix(p.text, "spiffe://"), "/ns/")
	ns, sa, ok2 := strings.Cut(rest, "/sa/")
	if r.in.Peer = (identity.ID{TrustDomain: td, Namespace: ns, ServiceAccount: sa}); !ok1 || !ok2 || strings.Contains(sa, "/") {
		r.in.Peer = identity.ID{}
		r.known.Lack |= authz.Lacking(authz.Principal)
	}
}

// addressIn reads an address and a port.
func addressIn(v value) (netip.AddrPort, bool) {
	text, ok := v.has()
	if !ok || text == "" || text[0] == 'e' { // envoy://…
		return netip.AddrPort{}, false
	}
	a, err := netip.ParseAddrPort(text)
	return a, err == nil
}
