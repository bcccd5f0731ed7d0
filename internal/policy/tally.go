package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A changeKind is how a request fares by other policies.
type changeKind uint8

const (
	nowDenied changeKind = iota
	nowAllowed
	undetermined
)

func (k changeKind) String() string {
	return [...]string{"now denied", "now allowed", "undetermined"}[k]
}

// A change is what is to be said of a request, besides what the line has.
type change struct {
	kind           changeKind
	policy, target string
}

// Columns are what changes can be counted by.
var Columns = []string{"principal", "path", "policy", "method", "destination", "status"}

const maxColumns = 6

func checkColumns(names []string) error {
	for i, name := range names {
		switch {
		case !slices.Contains(Columns, name):
			return fmt.Errorf("by: %q is none of %s", name, strings.Join(Columns, ", "))
		case slices.Contains(names[:i], name):
			return fmt.Errorf("by: %q is there twice", name)
		}
	}
	return nil
}

// A rowKey is what a Row is about.
type rowKey struct {
	kind  changeKind
	cells [maxColumns]string
	lacks string
}

// A counted is a Row in the making.
type counted struct {
	n    int64
	log  string
	line int64 // the first that it counts
}

// A tally is what one replayer has counted.
type tally struct {
	lines, malformed, notJudged       int64
	sameAllowed, sameDenied, disagree int64
	kinds                             [3]int64
	rows                              map[rowKey]*counted
	bads                              []BadLine
}

// A BadLine is one that could not be read.
type BadLine struct {
	Log    string `json:"log"`
	Line   int64  `json:"line"`
	Reason string `json:"reason"`
}

const (
	// maxRows is how many rows a replayer counts. What would be another is counted
	// together.
	maxRows = 10_000

	// maxBad is how many lines that cannot be read are told.
	maxBad = 5

	others = "(others)"
)

func newTally() *tally { return &tally{rows: map[rowKey]*counted{}} }

func (t *tally) bad(log string, line int64, err error) {
	t.malformed++
	if len(t.bads) < maxBad {
		t.bads = append(t.bads, BadLine{log, line, err.Error()})
	}
}

// count counts the line at hand as a change.
func (r *replayer) count(log string, number int64, c change, lacks []string) {
	r.kinds[c.kind]++
	key := rowKey{kind: c.kind}
	for i, column := range r.columns {
		key.cells[i] = r.cell(Columns[column], &c)
	}
	switch {
	case c.kind != undetermined:
	case len(lacks) == 1:
		key.lacks = lacks[0]
	default:
		key.lacks = strings.Join(lacks, ", ")
	}
	row := r.rows[key]
	if row == nil {
		if len(r.rows) >= maxRows {
			key = rowKey{kind: c.kind}
			for i := range r.columns {
				key.cells[i] = others
			}
			row = r.rows[key]
		}
		if row == nil {
			row = &counted{log: log, line: number}
			for i := range key.cells {
				key.cells[i] = strings.Clone(key.cells[i]) // it may be a part of the chunk
			}
			r.rows[key] = row
		}
	}
	row.n++
	row.line = min(row.line, number)
}

// cell returns what a column says of the line at hand.
func (r *replayer) cell(column string, c *change) string {
	l := &r.line
	switch column {
	case "principal":
		switch p := l.sourcePrincipal; {
		case !p.there:
			return "(not logged)"
		case p.text == "":
			return "(none)"
		default:
			return strings.TrimPrefix(p.text, "spiffe://")
		}
	case "path":
		if path, ok := l.path.has(); ok {
			return templated(path)
		}
		return "(not HTTP)"
	case "policy":
		return c.policy
	case "method":
		return l.method.text
	case "destination":
		return cmp.Or(c.target, "(not in the manifests)")
	case "status":
		return l.code.text
	}
	return ""
}

// templated returns a path without its query, and with {*} for segments of which
// there may be any number: what has as many digits as letters, or is long.
func templated(path string) string {
	path, _, _ = strings.Cut(path, "?")
	var out strings.Builder
	from, changed := 0, false
	for i := 0; i <= len(path); i++ {
		if i < len(path) && path[i] != '/' {
			continue
		}
		if segment := path[from:i]; isVariable(segment) {
			if !changed {
				out.WriteString(path[:from])
				changed = true
			}
			out.WriteString("{*}")
		} else if changed {
			out.WriteString(segment)
		}
		if changed && i < len(path) {
			out.WriteByte('/')
		}
		from = i + 1
	}
	if !changed {
		return path
	}
	return out.String()
}

// longSegment is more than a name in a path has.
const longSegment = 40

func isVariable(segment string) bool {
	digits, letters := 0, 0
	for i := 0; i < len(segment); i++ {
		switch c := segment[i]; {
		case '0' <= c && c <= '9':
			digits++
		case 'a' <= c && c <= 'f', 'A' <= c && c <= 'F', c == '-':
		default:
			letters++
		}
	}
	return len(segment) > longSegment || digits > letters && (letters == 0 || digits > 2)
}
