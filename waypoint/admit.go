package waypoint

import (
	"strings"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/bufs"
	"github.com/waystone-mesh/waystone/routing"
)

// admit takes a request that can be judged at all: there is room for it, it is
// no CONNECT, its path means one thing only, and what it is for is served here.
//
// The destination is loaded here and not again. If it changes while the exchange
// is parked, with a question open say, the exchange is judged by the policies that
// were in force when it came, all of them, and not by some of each.
func (x *exchange) admit() step {
	s := x.session
	switch {
	case bufs.InUse() > s.worker.options.Budget:
		return x.fail(errOverloaded)
	case x.req.Method == "CONNECT":
		return x.fail(errConnect)
	}
	x.dest = s.destination()
	path, err := routing.Normalize(s.paths, x.req.Path)
	switch {
	case err != nil:
		return x.fail(&badRequestError{err})
	case x.dest == nil:
		return x.fail(errNoDestination)
	}
	x.req.Path = path
	if x.dest.Tokens != nil {
		x.rec.Path = concealTokens(x.rec.Path)
	}
	return stepConsult
}

// input is what policy is asked about the request, as it is now. It is lent until
// the next call of any exchange's.
func (x *exchange) input() *authz.Input {
	w := x.session.worker
	w.input = x.session.input()
	w.input.HTTP, w.input.Token = &x.req, x.token
	return &w.input
}

// concealTokens returns a path for the log, which must not show what opens doors:
// without the values of its query that are tokens, or are called so.
func concealTokens(path string) string {
	head, query, ok := strings.Cut(path, "?")
	if !ok || !strings.Contains(query, "eyJ") && !strings.Contains(query, "access_token=") {
		return path
	}
	pairs := strings.Split(query, "&")
	for i, pair := range pairs {
		name, value, _ := strings.Cut(pair, "=")
		if name == "access_token" || strings.Contains(value, "eyJ") { // {" in base64: how every JWT begins
			pairs[i] = name + "=(redacted)"
		}
	}
	return head + "?" + strings.Join(pairs, "&")
}
