package decisions

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waystone-mesh/waystone/authz"
)

// A query is the parameters of a question.
type query struct {
	keep  []func(*Decision) bool // all must hold
	since time.Duration          // no older than; 0: however old
	limit int
	text  bool
}

// limit is how many decisions are returned unless told otherwise: more than a
// screen, and less than a browser is slow to show.
const limit = 100

// parameters are what may be asked for. Each may be given once.
var parameters = map[string]func(*query, string) error{
	"allowed": func(q *query, v string) error {
		if v != "true" && v != "false" {
			return errors.New("is neither true nor false")
		}
		q.where(func(d *Decision) bool { return d.Allowed == (v == "true") })
		return nil
	},
	"principal": func(q *query, v string) error {
		match := pattern(strings.TrimPrefix(v, "spiffe://"))
		q.where(func(d *Decision) bool { return match(d.Source.Principal()) })
		return nil
	},
	"source": func(q *query, v string) error {
		if ip, err := netip.ParseAddr(v); err == nil {
			q.where(func(d *Decision) bool { return d.SourceIP.Unmap() == ip.Unmap() })
			return nil
		}
		if ns, name, ok := strings.Cut(v, "/"); !ok || ns == "" || name == "" || strings.Contains(name, "/") {
			return errors.New("is neither an address nor namespace/name of a service account or a workload")
		}
		q.where(func(d *Decision) bool {
			return d.SourceWorkload == v || d.Source.Namespace+"/"+d.Source.ServiceAccount == v
		})
		return nil
	},
	"namespace": func(q *query, v string) error {
		q.where(func(d *Decision) bool { return d.Source.Namespace == v })
		return nil
	},
	"destination": (*query).destination,
	"service":     (*query).destination,
	"path": func(q *query, v string) error {
		match := pattern(v)
		q.where(func(d *Decision) bool { return match(d.Path) })
		return nil
	},
	"method": func(q *query, v string) error {
		q.where(func(d *Decision) bool { return d.Method == v })
		return nil
	},
	"policy": func(q *query, v string) error {
		q.where(func(d *Decision) bool { return d.names(v) })
		return nil
	},
	"since": func(q *query, v string) (err error) {
		if q.since, err = time.ParseDuration(v); err != nil || q.since <= 0 {
			return errors.New("is not a duration such as 30s")
		}
		return nil
	},
	"limit": func(q *query, v string) (err error) {
		if q.limit, err = strconv.Atoi(v); err != nil || q.limit < 1 {
			return errors.New("is not a number from 1 on")
		}
		return nil
	},
	"format": func(q *query, v string) error {
		if q.text = v == "text"; !q.text && v != "json" {
			return errors.New("is neither json nor text")
		}
		return nil
	},
}

// parse reads the parameters of a question. What it does not know it refuses, and
// names: a filter that is misspelt must not seem to find everything.
func parse(values url.Values) (*query, error) {
	q := &query{limit: limit}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(values)) {
		set, known := parameters[name]
		switch v := values[name]; {
		case !known:
			errs = append(errs, fmt.Errorf("parameter %q is none of %s", name, strings.Join(slices.Sorted(maps.Keys(parameters)), ", ")))
		case len(v) != 1:
			errs = append(errs, fmt.Errorf("parameter %s is given %d times", name, len(v)))
		case v[0] == "":
			errs = append(errs, fmt.Errorf("parameter %s is empty", name))
		default:
			if err := set(q, v[0]); err != nil {
				errs = append(errs, fmt.Errorf("parameter %s: %q %w", name, v[0], err))
			}
		}
	}
	return q, errors.Join(errs...)
}

func (q *query) where(f func(*Decision) bool) { q.keep = append(q.keep, f) }

// destination asks for a host: with its port, or without, or so much of its name
// as comes before a dot.
func (q *query) destination(v string) error {
	q.where(func(d *Decision) bool {
		host, _, _ := strings.Cut(d.Destination, ":")
		return v == d.Destination || v == host || strings.HasPrefix(host, v+".")
	})
	return nil
}

// pattern returns what matches v, or if that ends with a "*" what begins with the
// rest of it.
func pattern(v string) func(string) bool {
	if prefix, ok := strings.CutSuffix(v, "*"); ok {
		return func(s string) bool { return strings.HasPrefix(s, prefix) }
	}
	return func(s string) bool { return s == v }
}

// names reports whether the explanation of d names a policy, by its name or by
// namespace/name: as what decided, asked, audited or was nearest, in force or
// tried.
func (d *Decision) names(policy string) bool {
	x := d.Explanation
	if x == nil {
		return false
	}
	found := func(r *authz.ExplainedRule) bool { return r != nil && isPolicy(r.Policy, policy) }
	if found(x.Decided) || found(x.Nearest) || found(x.Audit) {
		return true
	}
	return slices.ContainsFunc(x.Ask, func(r authz.ExplainedRule) bool { return found(&r) }) ||
		slices.ContainsFunc(x.DryRun, func(r authz.Rehearsal) bool { return found(r.Decided) || found(r.Nearest) }) ||
		slices.ContainsFunc(x.Trials, func(t authz.ExplainedTrial) bool { return isPolicy(t.Policy, policy) || isPolicy(t.Replaces, policy) })
}

// isPolicy reports whether name is full, which is namespace/name, or its end.
func isPolicy(full, name string) bool {
	_, last, _ := strings.Cut(full, "/")
	return full == name || last == name
}
