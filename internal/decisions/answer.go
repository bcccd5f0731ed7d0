package decisions

import (
	"cmp"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waystone-mesh/waystone/authz"
)

// An Answer is the decisions that were asked for, the newest first.
type Answer struct {
	Decisions []Row `json:"decisions"`

	// Matched is how many there are, of which the limit may have left some out.
	Matched int `json:"matched"`

	// Kept and NotKept count what there is and what there was: decisions that made
	// room for others, or came faster than they could be explained.
	Kept    Counts `json:"kept"`
	NotKept Counts `json:"notKept"`
}

// Counts are numbers of decisions.
type Counts struct {
	Refused uint64 `json:"refused"`
	Allowed uint64 `json:"allowed"`
}

// A Row is a Decision as it is shown.
type Row struct {
	At               time.Time          `json:"at"`
	Allowed          bool               `json:"allowed"`
	Status           int                `json:"status,omitempty"`
	Source           string             `json:"source,omitempty"` // a SPIFFE ID
	SourceWorkload   string             `json:"sourceWorkload,omitempty"`
	SourceIP         netip.Addr         `json:"sourceIP,omitzero"`
	RequestPrincipal string             `json:"requestPrincipal,omitempty"`
	Destination      string             `json:"destination,omitempty"`
	Method           string             `json:"method,omitempty"`
	Host             string             `json:"host,omitempty"`
	Path             string             `json:"path,omitempty"`
	RequestID        string             `json:"requestID,omitempty"`
	Token            string             `json:"token,omitempty"`
	Provider         string             `json:"provider,omitempty"`
	Why              string             `json:"why,omitempty"`
	Explanation      *authz.Explanation `json:"explanation,omitempty"`
}

// Query returns an [Answer] to a question, or if it asks for format=text a string,
// a line for each decision. An error says which parameters are wrong.
func (r *Recent) Query(values url.Values) (any, error) {
	q, err := parse(values)
	if err != nil {
		return nil, err
	}
	a, list := Answer{Decisions: []Row{}}, []entry(nil)
	if r != nil {
		refused, lostRefused := r.refused.all()
		allowed, lostAllowed := r.allowed.all()
		a.Kept = Counts{uint64(len(refused)), uint64(len(allowed))}
		a.NotKept = Counts{lostRefused, lostAllowed}
		list = slices.Concat(refused, allowed)
		slices.SortStableFunc(list, func(x, y entry) int { return cmp.Compare(y.added, x.added) })
		now := r.age()
		list = slices.DeleteFunc(list, func(e entry) bool { return !q.wants(e, now) })
	}
	a.Matched = len(list)
	for _, e := range list[:min(len(list), q.limit)] {
		a.Decisions = append(a.Decisions, e.row())
	}
	if q.text {
		return a.text(), nil
	}
	return a, nil
}

func (q *query) wants(e entry, now time.Duration) bool {
	if q.since > 0 && now-e.added > q.since {
		return false
	}
	return !slices.ContainsFunc(q.keep, func(f func(*Decision) bool) bool { return !f(e.Decision) })
}

func (d *Decision) row() Row {
	return Row{
		At: d.At.UTC(), Allowed: d.Allowed, Status: d.Status,
		Source: d.Source.String(), SourceWorkload: d.SourceWorkload, SourceIP: d.SourceIP, RequestPrincipal: d.RequestPrincipal,
		Destination: d.Destination, Method: d.Method, Host: d.Host, Path: d.Path, RequestID: d.RequestID,
		Token: d.Token, Provider: d.Provider, Why: d.Why, Explanation: d.Explanation,
	}
}

// text returns a line for each decision, such as
//
//	2023-08-28T10:39:33.716Z 403 GET /admin spiffe://cluster.local/ns/a/sa/b reviews:9080 denied: no ALLOW rule matches
func (a *Answer) text() string {
	var b strings.Builder
	for i := range a.Decisions {
		r := &a.Decisions[i]
		b.WriteString(r.At.Format("2006-01-02T15:04:05.000Z07:00"))
		status := "-"
		if r.Status != 0 {
			status = strconv.Itoa(r.Status)
		}
		for _, word := range []string{status, r.Method, r.Path, cmp.Or(r.Source, address(r.SourceIP)), r.Destination} {
			b.WriteString(" " + plain(word))
		}
		b.WriteString(" " + r.why() + "\n")
	}
	return b.String()
}

// why says what became of it: by a JWT, by an authorizer, or as the explanation
// says.
func (r *Row) why() string {
	switch {
	case r.Why != "" && strings.ContainsFunc(r.Why, func(r rune) bool { return !strconv.IsPrint(r) }):
		return strconv.Quote(r.Why)
	case r.Why != "":
		return r.Why
	case r.Explanation != nil:
		return r.Explanation.Line()
	case r.Allowed:
		return "allowed"
	}
	return "denied"
}

func address(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// plain returns s as one word that cannot be taken for several, or for an end of
// the line.
func plain(s string) string {
	switch {
	case s == "":
		return "-"
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '"' || !strconv.IsPrint(r) }):
		return strconv.Quote(s)
	}
	return s
}
