package telemetry

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/waystone-mesh/waystone/internal/identity"
)

// A logged is what a line of the access log is about: an exchange, or a
// connection, of which the other is nil.
type logged struct {
	*Ends
	*Outcome
	http *HTTP
	tcp  *TCP
}

// An accessKey is one that the access log has when it is asked for, after those
// that it always has. These go through a table: who asks for one pays for it.
type accessKey struct {
	name  string
	value func(*line, logged)
}

// optionalKeys are all there are; what each means is in the package comment.
var optionalKeys = [...]accessKey{
	{"source_principal", func(l *line, r logged) { l.principal(r.SourceID) }},
	{"source_workload", func(l *line, r logged) {
		if l.known(r.Source != nil) {
			l.word(workloadName(r.Source))
		}
	}},
	{"source_namespace", func(l *line, r logged) {
		namespace := r.SourceID.Namespace
		if namespace == "" && r.Source != nil {
			namespace = r.Source.Namespace
		}
		l.word(namespace)
	}},
	{"destination_workload", func(l *line, r logged) {
		if l.known(r.Dest != nil) {
			l.word(workloadName(r.Dest))
		}
	}},
	{"destination_namespace", func(l *line, r logged) {
		if l.known(r.Dest != nil) {
			l.word(r.Dest.Namespace)
		}
	}},
	{"destination_principal", func(l *line, r logged) { l.principal(r.destination()) }},
	{"request_principal", func(l *line, r logged) { l.word(r.Decision.RequestPrincipal) }},
	{"policy", func(l *line, r logged) { l.word(r.Decision.Rule) }},
	{explanationKey, func(l *line, r logged) { l.quoted(r.Decision.Why) }},
	{"dry_run_allow", func(l *line, r logged) { l.rehearsal(&r.Decision.DryAllow) }},
	{"dry_run_deny", func(l *line, r logged) { l.rehearsal(&r.Decision.DryDeny) }},
	{"trials", func(l *line, r logged) { l.trials(&r.Decision) }},
	{traceKey, func(l *line, r logged) { l.trace(r.trace()) }},
	{"upstream_attempts", func(l *line, r logged) {
		if l.known(r.http != nil) {
			l.b = strconv.AppendInt(l.b, int64(r.http.Attempts), 10)
		}
	}},
}

// Keys that others have to do something for.
const (
	explanationKey = "explanation"
	traceKey       = "trace_id"
)

// KeyNames returns the names of the keys that the access log may have besides
// those that it always has.
func KeyNames() []string {
	names := make([]string, len(optionalKeys))
	for i := range optionalKeys {
		names[i] = optionalKeys[i].name
	}
	return names
}

// ParseKeys reads a list of such names, separated by commas; "" is none.
func ParseKeys(list string) ([]string, error) {
	var names []string
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	_, err := keysOf(names)
	return names, err
}

// keysOf returns the keys of the given names, in the order of those.
func keysOf(names []string) ([]accessKey, error) {
	var keys []accessKey
	for i, name := range names {
		at := slices.IndexFunc(optionalKeys[:], func(k accessKey) bool { return k.name == name })
		switch {
		case at < 0:
			return nil, fmt.Errorf("key %q is none of %s", name, strings.Join(KeyNames(), ", "))
		case slices.Contains(names[:i], name):
			return nil, fmt.Errorf("key %q is named twice", name)
		}
		keys = append(keys, optionalKeys[at])
	}
	return keys, nil
}

// known reports ok; if it is false it appends that there is no value.
func (l *line) known(ok bool) bool {
	if !ok && l.json {
		l.b = append(l.b, "null"...)
	} else if !ok {
		l.b = append(l.b, '-')
	}
	return ok
}

// word appends a value that text does not quote, and that must not have blanks
// there.
func (l *line) word(v string) {
	switch {
	case !l.known(v != ""):
	case l.json:
		l.b = appendJSONString(l.b, v)
	default:
		l.b = appendDetails(l.b, v)
	}
}

// quoted appends a value that is quoted in either encoding.
func (l *line) quoted(v string) {
	switch {
	case !l.known(v != ""):
	case l.json:
		l.b = appendJSONString(l.b, v)
	default:
		l.b = append(appendOrDash(append(l.b, '"'), v), '"')
	}
}

func (l *line) principal(id identity.ID) {
	if l.known(!id.IsZero()) {
		l.bare(func(b []byte) []byte { return appendID(b, id) })
	}
}

func (l *line) rehearsal(r *Rehearsal) {
	if !l.known(r.Result != "") {
		return
	}
	l.bare(func(b []byte) []byte {
		b = append(b, r.Result...)
		if r.Rule != "" {
			b = appendDetails(append(b, ':'), r.Rule)
		}
		return b
	})
}

// trials appends a list of objects, or in text policy:result, with commas
// between them.
func (l *line) trials(d *Decision) {
	if !l.known(len(d.Trials) > 0) {
		return
	}
	if l.json {
		l.b = append(l.b, '[')
	}
	for i := range d.Trials {
		if i > 0 {
			l.b = append(l.b, ',')
		}
		l.trial(&d.Trials[i], d.Denied)
	}
	if l.json {
		l.b = append(l.b, ']')
	}
}

func (l *line) trial(t *Trial, denied bool) {
	if !l.json {
		l.b = append(append(appendDetails(l.b, t.Policy), ':'), t.result(denied)...)
		return
	}
	l.b = appendJSONString(append(l.b, `{"policy":`...), t.Policy)
	l.b = appendJSONString(append(l.b, `,"replaces":`...), t.Replaces)
	l.b = appendJSONString(append(l.b, `,"result":`...), t.result(denied))
	l.b = append(l.b, '}')
}

func (l *line) trace(id [16]byte) {
	if l.known(id != [16]byte{}) {
		l.bare(func(b []byte) []byte { return hex.AppendEncode(b, id[:]) })
	}
}

// destination returns the identity of the endpoint, as the metrics have it.
func (r logged) destination() identity.ID {
	if r.DestID.IsZero() && r.Reporter == ByWaypoint && r.Dest != nil && r.Dest.TrustDomain != "" {
		return r.Dest.Identity()
	}
	return r.DestID
}

func (r logged) trace() [16]byte {
	if r.http != nil {
		return r.http.trace
	}
	return r.tcp.Trace.ID
}
