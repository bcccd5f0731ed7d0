package decisions

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/identity"
)

var noon = time.Date(2023, 8, 28, 12, 0, 0, 716e6, time.UTC)

// newRecent returns a Recent whose clock the test moves.
func newRecent(size int) (*Recent, *time.Duration) {
	r, now := New(size), new(time.Duration)
	r.age = func() time.Duration { return *now }
	return r, now
}

func account(ns, sa string) identity.ID {
	return identity.ID{TrustDomain: "cluster.local", Namespace: ns, ServiceAccount: sa}
}

func refusal(id string) *Decision {
	return &Decision{
		At: noon, Status: 403, Source: account("shop", "front"), SourceWorkload: "shop/front-7f-x1", SourceIP: netip.MustParseAddr("10.0.0.7"),
		Destination: "reviews.books.svc.cluster.local:9080", Method: "GET", Host: "reviews", Path: "/admin/1", RequestID: id,
		Explanation: &authz.Explanation{Reason: authz.ReasonNoAllow, Details: "rbac_access_denied_matched_policy[none]",
			Nearest: &authz.ExplainedRule{Policy: "books/readers", ID: "ns[books]-policy[readers]-rule[0]",
				Clauses: []authz.Clause{{Field: "spec.rules[0].to[0].operation.paths", Attribute: "path", Wanted: []string{"/public/*"}, Saw: "/admin/1"}}}},
	}
}

func pass(id string) *Decision {
	d := refusal(id)
	d.Allowed, d.Status, d.Path = true, 200, "/public/1"
	d.Explanation = &authz.Explanation{Allowed: true, Reason: authz.ReasonAllow, Decided: &authz.ExplainedRule{Policy: "books/readers", Matches: true}}
	return d
}

// ask returns the request IDs of what a question finds.
func ask(t *testing.T, r *Recent, query string) (ids []string, a Answer) {
	t.Helper()
	values, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.Query(values)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	a = got.(Answer)
	for _, d := range a.Decisions {
		ids = append(ids, d.RequestID)
	}
	return ids, a
}

func TestTheNewestAreKeptOfEachKind(t *testing.T) {
	r, now := newRecent(8)
	for i := range 20 {
		*now += time.Second
		r.Add(refusal(fmt.Sprint("no-", i)))
		if i < 3 {
			r.Add(pass(fmt.Sprint("yes-", i)))
		}
	}
	ids, a := ask(t, r, "")
	want := "no-19 no-18 no-17 no-16 no-15 no-14 no-13 no-12 yes-2 yes-1"
	if got := strings.Join(ids, " "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if a.Matched != 10 || a.Kept != (Counts{8, 2}) || a.NotKept != (Counts{12, 1}) {
		t.Errorf("got %+v", a)
	}
}

func TestWhatComesTooFastIsNotWanted(t *testing.T) {
	r, now := newRecent(0)
	count := func(allowed bool) (n int) {
		for range 1000 {
			if r.Wants(allowed) {
				n++
			}
		}
		return n
	}
	for _, step := range []struct {
		pass             time.Duration
		refused, allowed int
	}{{0, 200, 10}, {0, 0, 0}, {100 * time.Millisecond, 20, 1}, {time.Hour, 200, 10}} {
		*now += step.pass
		if refused, allowed := count(false), count(true); refused != step.refused || allowed != step.allowed {
			t.Errorf("after %v: %d refusals and %d allowed are wanted, want %d and %d", step.pass, refused, allowed, step.refused, step.allowed)
		}
	}
	if _, a := ask(t, r, ""); a.NotKept != (Counts{4000 - 420, 4000 - 21}) {
		t.Errorf("not kept: %+v", a.NotKept)
	}
}

func TestQuery(t *testing.T) {
	r, now := newRecent(0)
	r.Add(refusal("old"))
	*now = time.Minute
	other := refusal("other")
	other.Source, other.SourceWorkload, other.SourceIP = account("batch", "job"), "batch/job-1", netip.MustParseAddr("10.0.0.8")
	other.Destination, other.Method, other.Path = "ratings.books.svc.cluster.local:80", "PUT", "/adm"
	other.Explanation = &authz.Explanation{Reason: authz.ReasonDeny, Decided: &authz.ExplainedRule{Policy: "books/no-put"},
		Ask:    []authz.ExplainedRule{{Policy: "books/ask-opa"}},
		DryRun: []authz.Rehearsal{{Decided: &authz.ExplainedRule{Policy: "books/dry"}}},
		Trials: []authz.ExplainedTrial{{Policy: "books/new", Replaces: "books/no-put"}}}
	r.Add(other)
	token := refusal("token")
	token.Source, token.Explanation, token.Token = identity.ID{}, nil, "Jwt is expired"
	*now++
	r.Add(token)
	*now++
	r.Add(pass("pass"))
	for query, want := range map[string]string{
		"":              "pass token other old",
		"allowed=true":  "pass",
		"allowed=false": "token other old",
		"principal=spiffe://cluster.local/ns/batch/sa/job": "other",
		"principal=cluster.local/ns/shop/*":                "pass old",
		"principal=cluster.local/ns/shop":                  "",
		"source=shop/front":                                "pass old",
		"source=batch/job-1":                               "other",
		"source=10.0.0.8":                                  "other",
		"source=::ffff:10.0.0.8":                           "other",
		"namespace=batch":                                  "other",
		"namespace=books":                                  "",
		"destination=ratings":                              "other",
		"service=ratings.books":                            "other",
		"service=ratings.books.svc.cluster.local":          "other",
		"destination=ratings.books.svc.cluster.local:80":   "other",
		"destination=ratings.books.svc.cluster.local:81":   "",
		"destination=rat":                                  "",
		"path=/adm":                                        "other",
		"path=/adm*":                                       "token other old",
		"path=/admin/*&method=GET":                         "token old",
		"policy=readers":                                   "pass old",
		"policy=books/readers&allowed=false":               "old",
		"policy=shop/readers":                              "",
		"policy=no-put":                                    "other",
		"policy=ask-opa":                                   "other",
		"policy=dry":                                       "other",
		"policy=new":                                       "other",
		"since=30s":                                        "pass token other",
		"since=2h&limit=2":                                 "pass token",
		"limit=1&format=json":                              "pass",
	} {
		if ids, _ := ask(t, r, query); strings.Join(ids, " ") != want {
			t.Errorf("%s: got %q, want %q", query, ids, want)
		}
	}
	if _, a := ask(t, r, "limit=1"); a.Matched != 4 {
		t.Errorf("%d matched, want 4", a.Matched)
	}
}

func TestQueryRefusesWhatItDoesNotKnow(t *testing.T) {
	r, _ := newRecent(0)
	for query, want := range map[string]string{
		"pth=/x":                   `parameter "pth" is none of allowed, destination, format, limit, method, namespace, path, policy, principal, service, since, source`,
		"allowed=yes":              `parameter allowed: "yes" is neither true nor false`,
		"source=front":             `parameter source: "front" is neither an address nor namespace/name of a service account or a workload`,
		"source=a/b/c":             `parameter source: "a/b/c" is neither an address nor namespace/name of a service account or a workload`,
		"source=/b":                `parameter source: "/b" is neither an address nor namespace/name of a service account or a workload`,
		"since=30":                 `parameter since: "30" is not a duration such as 30s`,
		"since=-1s":                `parameter since: "-1s" is not a duration such as 30s`,
		"limit=0":                  `parameter limit: "0" is not a number from 1 on`,
		"limit=many":               `parameter limit: "many" is not a number from 1 on`,
		"format=xml":               `parameter format: "xml" is neither json nor text`,
		"method=":                  `parameter method is empty`,
		"method=GET&method=PUT":    `parameter method is given 2 times`,
		"limit=0&allowed=1&path=x": "parameter allowed: \"1\" is neither true nor false\nparameter limit: \"0\" is not a number from 1 on",
	} {
		values, _ := url.ParseQuery(query)
		if _, err := r.Query(values); err == nil || err.Error() != want {
			t.Errorf("%s: got %v\nwant %s", query, err, want)
		}
	}
}

func TestText(t *testing.T) {
	r, now := newRecent(0)
	for _, d := range []*Decision{
		refusal("1"), pass("2"),
		{At: noon, SourceIP: netip.MustParseAddr("10.0.0.9"), Destination: "db:3306"},
		{At: noon, Allowed: true},
		{At: noon, Status: 401, Method: "GET", Path: "/a b\n", Token: "Jwt is expired", Why: "denied: Jwt is expired"},
		{At: noon, Status: 403, Method: "GET", Path: "/", Provider: "opa: lost", Why: "denied, for want of an answer\nby rule", Explanation: &authz.Explanation{Allowed: true}},
	} {
		*now++
		r.Add(d)
	}
	got, err := r.Query(url.Values{"format": {"text"}})
	want := `2023-08-28T12:00:00.716Z 403 GET / - - "denied, for want of an answer\nby rule"
2023-08-28T12:00:00.716Z 401 GET "/a b\n" - - denied: Jwt is expired
2023-08-28T12:00:00.716Z - - - - - allowed
2023-08-28T12:00:00.716Z - - - 10.0.0.9 db:3306 denied
2023-08-28T12:00:00.716Z 200 GET /public/1 spiffe://cluster.local/ns/shop/sa/front reviews.books.svc.cluster.local:9080 allowed by AuthorizationPolicy books/readers rule 0
2023-08-28T12:00:00.716Z 403 GET /admin/1 spiffe://cluster.local/ns/shop/sa/front reviews.books.svc.cluster.local:9080 denied: no ALLOW rule matches; nearest AuthorizationPolicy books/readers rule 0: to.operation.paths wanted /public/*, saw /admin/1
`
	if got != want || err != nil {
		t.Errorf("got %v\n%s\nwant\n%s", err, got, want)
	}
}

// The golden form of what is shown, and all of it: nothing else of a request is.
func TestJSON(t *testing.T) {
	r, _ := newRecent(0)
	d := refusal("1")
	d.Path, d.RequestPrincipal, d.Explanation = "/admin/1?token=secret#x", "iss/alice", nil
	r.Add(d)
	_, a := ask(t, r, "")
	got, err := json.Marshal(a)
	want := `{"decisions":[{"at":"2023-08-28T12:00:00.716Z","allowed":false,"status":403,"source":"spiffe://cluster.local/ns/shop/sa/front",` +
		`"sourceWorkload":"shop/front-7f-x1","sourceIP":"10.0.0.7","requestPrincipal":"iss/alice","destination":"reviews.books.svc.cluster.local:9080",` +
		`"method":"GET","host":"reviews","path":"/admin/1","requestID":"1"}],"matched":1,"kept":{"refused":1,"allowed":0},"notKept":{"refused":0,"allowed":0}}`
	if err != nil || string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestNilKeepsNothing(t *testing.T) {
	var r *Recent
	if r.Wants(false) {
		t.Error("a nil Recent wants decisions")
	}
	r.Add(refusal("1"))
	if ids, a := ask(t, r, "allowed=false"); ids != nil || a.Decisions == nil {
		t.Errorf("got %+v, want an empty list", a)
	}
	if _, err := r.Query(url.Values{"x": {"y"}}); err == nil {
		t.Error("a nil Recent takes any parameter")
	}
}

// rulesOf returns n rules, each of so many bytes.
func rulesOf(n, bytes int) (out []authz.ExplainedPolicy) {
	for i := range n {
		out = append(out, authz.ExplainedPolicy{Policy: fmt.Sprint("a/", i), Rules: []authz.ExplainedRule{{ID: strings.Repeat("x", bytes)}}})
	}
	return out
}

func TestBytesAreBounded(t *testing.T) {
	r, _ := newRecent(10)
	for i := range 100 {
		d := refusal(fmt.Sprint(i))
		d.Path = "/" + strings.Repeat("é", 1<<20)
		switch i % 3 {
		case 0:
			d.Explanation.Policies = rulesOf(1000, 100)
		case 1: // the nearest rule alone is too much
			d.Explanation.Nearest.Clauses[0].Wanted = slices.Repeat([]string{strings.Repeat("/", 300)}, 1000)
		case 2: // what may be kept
			d.Explanation.Nearest.Clauses[0].Wanted = slices.Repeat([]string{"/"}, 500)
		}
		r.Add(d)
	}
	list, _ := r.refused.all()
	total := 0
	for _, e := range list {
		total += e.size
		if got := decisionBytes + e.text() + explanation(e.Explanation); got != e.size || got > 4*eachBytes {
			t.Errorf("%s takes %d, reckoned %d; want no more than %d", e.RequestID, got, e.size, 4*eachBytes)
		}
		if len(e.Path) > longest+len("…") || !strings.HasSuffix(e.Path, "é…") {
			t.Errorf("the path has %d bytes and ends with %q", len(e.Path), e.Path[len(e.Path)-4:])
		}
		if x := e.Explanation; x.Policies != nil || x.Reason != authz.ReasonNoAllow || x.Details == "" {
			t.Errorf("%s: explanation %+v, want it shortened to what it comes to", e.RequestID, x)
		}
	}
	if total > 10*eachBytes || len(list) == 0 || r.refused.bytes != total {
		t.Errorf("%d decisions take %d, reckoned %d; want no more than %d", len(list), total, r.refused.bytes, 10*eachBytes)
	}
	if list[0].RequestID != "99" {
		t.Errorf("the newest is %s", list[0].RequestID)
	}
}

// What is added is not the request's memory.
func TestStringsAreCopied(t *testing.T) {
	r, _ := newRecent(0)
	b := []byte("/path?query")
	d := refusal("1")
	d.Path = unsafe.String(unsafe.SliceData(b), len(b))
	r.Add(d)
	clear(b)
	if _, a := ask(t, r, ""); a.Decisions[0].Path != "/path" {
		t.Errorf("path %q, want /path", a.Decisions[0].Path)
	}
}

func TestConcurrentUse(t *testing.T) {
	r := New(32)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for j := range 500 {
				allowed := (i+j)%2 == 0
				if d := refusal(fmt.Sprint(j)); r.Wants(allowed) {
					d.Allowed = allowed
					r.Add(d)
				}
				if j%50 == 0 {
					if _, err := r.Query(url.Values{"path": {"/admin*"}}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	_, a := ask(t, r, "limit=1000")
	if got := a.Kept.Refused + a.Kept.Allowed + a.NotKept.Refused + a.NotKept.Allowed; got != 2000 {
		t.Errorf("%d are accounted for, want 2000", got)
	}
}

func BenchmarkWants(b *testing.B) {
	for _, allowed := range []bool{false, true} {
		b.Run(fmt.Sprintf("allowed=%v", allowed), func(b *testing.B) {
			r := New(0)
			b.ReportAllocs()
			for b.Loop() {
				r.Wants(allowed)
			}
		})
	}
	b.Run("parallel", func(b *testing.B) {
		r := New(0)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				r.Wants(true)
			}
		})
	})
}

func BenchmarkAdd(b *testing.B) {
	r := New(0)
	d := *refusal("1")
	b.ReportAllocs()
	for b.Loop() {
		c := d
		r.Add(&c)
	}
}
