package waypoint

import (
	"strings"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/extauthz"
	"github.com/waystone-mesh/waystone/internal/l7"
)

// consult asks the providers of the CUSTOM policies that match, one after the
// other: what one changes in the request the next one sees, and so do the
// policies after them.
func (x *exchange) consult() step {
	if !x.dest.Policies.Asks() {
		return stepAuthenticate
	}
	q := x.dest.Policies.Ask(x.input(), x.asked)
	if q == nil {
		return stepAuthenticate
	}
	w := x.session.worker
	if x.asked == nil {
		if v := x.dest.Policies.Check(&w.input); v.Ask == nil {
			return x.fail(&deniedError{v}) // by a rule whose provider is not configured
		}
	}
	client := w.options.Authorizer(q.Provider)
	if client == nil {
		return x.fail(&unaskedError{q})
	}
	c := x.excerpt(client.Provider(), w.options.gathering())
	switch {
	case c.need > 0:
		return x.await(c.need)
	case c.tooLong:
		return x.fail(&tooLargeError{q})
	}
	return x.ask(client, q, &c)
}

// An excerpt is how much of a request's content an authorizer sees.
type excerpt struct {
	bytes   int
	need    int  // it cannot be taken until so many are held; 0: it can
	partial bool // there are more
	tooLong bool // and the provider is to see all of them
}

// excerpt returns what a provider sees, of which no more than most bytes are held.
// Where a part will not do, there is to be one byte more than what it wants before
// it is too long.
func (x *exchange) excerpt(p *authz.Provider, most int) (c excerpt) {
	want := min(p.Content(), most)
	if want == 0 {
		return c
	}
	held, need := x.held.Len(), want
	if !p.Body.AllowPartial {
		need++
	}
	switch {
	case x.requestEnded || held >= need:
		c.bytes = min(held, want)
		more := held > want || !x.requestEnded && x.req.Length != int64(held)
		c.partial, c.tooLong = more, more && !p.Body.AllowPartial
	case !p.Body.AllowPartial && x.req.Length > int64(want): // it says so itself
		c.tooLong = true
	default:
		c.need = need
	}
	return c
}

// await parks the exchange until so much of its content is held, or all of it.
// Whoever waits to be told that it is welcome (RFC 9110, section 10.1.1) is told
// so here: its destination has not been asked yet, and need not be any more.
func (x *exchange) await(need int) step {
	if strings.EqualFold(x.req.Fields.Get("expect"), "100-continue") {
		x.req.Fields = x.req.Fields.Del("expect")
		_ = x.client.Respond(&l7.Response{Status: 100}, false) // it will wait no longer than it likes to
	}
	x.gathering = int32(need)
	x.park()
	return x.step
}

// ask parks the exchange until an authorizer has answered. Its question is a copy,
// of which nothing is the exchange's.
func (x *exchange) ask(client *extauthz.Client, q *authz.Question, c *excerpt) step {
	s := x.session
	r := &extauthz.Request{
		Source: s.from.Source, Dest: s.address(), Peer: s.from.Peer, Self: s.worker.options.Self, At: x.rec.Start,
		Head: x.req.Clone(), Partial: c.partial,
	}
	if c.bytes > 0 {
		r.Content = make([]byte, 0, c.bytes)
		x.held.Each(func(p []byte) { r.Content = append(r.Content, p[:min(len(p), c.bytes-len(r.Content))]...) })
	}
	loop, t := s.worker.loop, x.park()
	x.cancel = s.worker.ask(client, r, func(a extauthz.Answer) {
		loop.Do(func() { t.answered(q, &a) })
	})
	return x.step
}

// answered resumes an exchange with what an authorizer said.
func (t ticket) answered(q *authz.Question, a *extauthz.Answer) {
	if t.stale() {
		return
	}
	x := t.x
	if !a.Allowed {
		t.resume(x.fail(&unauthorizedError{q, a}))
		return
	}
	x.asked = q
	x.req.Fields = extauthz.Apply(x.req.Fields, a.Edits)
	if a.SetQuery != nil || a.RemoveQuery != nil {
		x.req.Path = editQuery(x.req.Path, a.SetQuery, a.RemoveQuery)
	}
	x.answers = append(x.answers, a.Response...)
	t.resume(stepConsult)
}

// editQuery removes parameters of a path's query, and sets others: in the place of
// those of their name, or at the end. The others stay as they are, bytes for
// bytes.
func editQuery(path string, set []extauthz.Parameter, remove []string) string {
	if path == "*" {
		return path
	}
	head, query, _ := strings.Cut(path, "?")
	var pairs []string
	if query != "" {
		pairs = strings.Split(query, "&")
	}
	for _, name := range remove {
		pairs, _ = replaceParameter(pairs, name, "")
	}
	for _, p := range set {
		name := escapeQuery(p.Name, true)
		pair := name + "=" + escapeQuery(p.Value, false)
		var found bool
		if pairs, found = replaceParameter(pairs, name, pair); !found {
			pairs = append(pairs, pair)
		}
	}
	if len(pairs) == 0 {
		return head
	}
	return head + "?" + strings.Join(pairs, "&")
}

// replaceParameter puts pair, unless it is "", in the place of the first parameter
// called name, and takes out the others.
func replaceParameter(pairs []string, name, pair string) (out []string, found bool) {
	out = pairs[:0]
	for _, p := range pairs {
		if n, _, _ := strings.Cut(p, "="); n != name {
			out = append(out, p)
			continue
		}
		if !found && pair != "" {
			out = append(out, pair)
		}
		found = true
	}
	return out, found
}

// escapeQuery returns s with what would end it escaped: a name or a value must not
// become two, nor the end of the request's target. What is escaped already, as
// Envoy has authorizers do it, stays.
func escapeQuery(s string, name bool) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || c == '#' || c == '&' || c == '=' && name {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}
