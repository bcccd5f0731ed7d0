package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// An Outcome is what would have changed.
type Outcome struct {
	Requests int64 `json:"requests"` // lines that could be read

	SameAllowed  int64 `json:"sameAllowed"`
	SameDenied   int64 `json:"sameDenied"`
	NowDenied    int64 `json:"nowDenied"`
	NowAllowed   int64 `json:"nowAllowed"`
	Undetermined int64 `json:"undetermined"`

	// NotJudged are requests that were refused before any policy was asked: their
	// paths mean nothing for certain.
	NotJudged int64 `json:"notJudged,omitempty"`

	// Disagree counts where the base says otherwise than the log: it is not what
	// was in force then.
	Disagree int64 `json:"disagree,omitempty"`

	Malformed int64     `json:"malformed,omitempty"`
	BadLines  []BadLine `json:"badLines,omitempty"` // the first of them

	Assumed  []string `json:"assumed,omitempty"`
	Problems []string `json:"problems,omitempty"`
	By       []string `json:"by"`
	Rows     []Row    `json:"rows"`
}

// A Row counts requests that fare alike.
type Row struct {
	Change  string            `json:"change"` // now denied, now allowed, undetermined
	Count   int64             `json:"count"`
	By      map[string]string `json:"by"`
	Missing string            `json:"missing,omitempty"` // for want of what it is undetermined
	Log     string            `json:"log"`
	Line    int64             `json:"line"` // one of them

	kind  changeKind
	cells []string
}

// outcome adds up what replayers have counted.
func (c *comparison) outcome(tallies []*tally) *Outcome {
	out := &Outcome{By: c.o.By, Rows: []Row{}}
	rows := map[rowKey]*counted{}
	for _, t := range tallies {
		out.Requests += t.lines
		out.SameAllowed += t.sameAllowed
		out.SameDenied += t.sameDenied
		out.NotJudged += t.notJudged
		out.Disagree += t.disagree
		out.Malformed += t.malformed
		out.NowDenied += t.kinds[nowDenied]
		out.NowAllowed += t.kinds[nowAllowed]
		out.Undetermined += t.kinds[undetermined]
		out.BadLines = append(out.BadLines, t.bads...)
		for key, n := range t.rows {
			row := rows[key]
			switch {
			case row == nil:
				copied := *n
				rows[key] = &copied
				continue
			case n.log < row.log || n.log == row.log && n.line < row.line:
				row.log, row.line = n.log, n.line
			}
			row.n += n.n
		}
	}
	slices.SortFunc(out.BadLines, func(a, b BadLine) int { return cmp.Or(cmp.Compare(a.Log, b.Log), cmp.Compare(a.Line, b.Line)) })
	out.BadLines = out.BadLines[:min(len(out.BadLines), maxBad)]
	for _, key := range slices.SortedFunc(maps.Keys(rows), func(a, b rowKey) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), -cmp.Compare(rows[a].n, rows[b].n), slices.Compare(a.cells[:], b.cells[:]), cmp.Compare(a.lacks, b.lacks))
	}) {
		row := Row{Change: key.kind.String(), Count: rows[key].n, By: map[string]string{}, Missing: key.lacks, Log: rows[key].log, Line: rows[key].line, kind: key.kind}
		for i, name := range c.o.By {
			row.By[name] = key.cells[i]
			row.cells = append(row.cells, key.cells[i])
		}
		out.Rows = append(out.Rows, row)
	}
	out.assume(c)
	return out
}

// assume says what was assumed.
func (o *Outcome) assume(c *comparison) {
	if c.o.Base == nil && len(c.o.New.authentications()) > 0 {
		o.Assumed = append(o.Assumed, "the RequestAuthentications were in force already: give --base to compare them")
	}
	if o.Disagree > 0 {
		o.Assumed = append(o.Assumed, fmt.Sprintf("the base was in force, although of %d requests it says otherwise than the log", o.Disagree))
	}
	for _, m := range []*Mesh{c.o.New, c.o.Base} {
		if m == nil {
			continue
		}
		for _, err := range m.Problems() {
			if text := err.Error(); !slices.Contains(o.Problems, text) {
				o.Problems = append(o.Problems, text)
			}
		}
	}
}

// Changed reports whether anything would change.
func (o *Outcome) Changed() bool { return o.NowDenied+o.NowAllowed > 0 }

// Table returns o as text for people: of each kind of change, no more than so many
// rows; 0 is all.
func (o *Outcome) Table(limit int) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "requests\t%d\t\n", o.Requests)
	fmt.Fprintf(w, "same\t%d\t\n", o.SameAllowed+o.SameDenied)
	fmt.Fprintf(w, "now denied\t%d\t\n", o.NowDenied)
	fmt.Fprintf(w, "now allowed\t%d\t\n", o.NowAllowed)
	fmt.Fprintf(w, "undetermined\t%d\t\n", o.Undetermined)
	if o.NotJudged > 0 {
		fmt.Fprintf(w, "never judged\t%d\t\n", o.NotJudged)
	}
	if o.Malformed > 0 {
		fmt.Fprintf(w, "not read\t%d\t\n", o.Malformed)
	}
	_ = w.Flush() // into memory
	for _, bad := range o.BadLines {
		fmt.Fprintf(&b, "%s:%d: %s\n", bad.Log, bad.Line, bad.Reason)
	}
	for _, text := range o.Assumed {
		fmt.Fprintf(&b, "assumed: %s\n", text)
	}
	for _, text := range o.Problems {
		fmt.Fprintf(&b, "refused: %s\n", text)
	}
	if len(o.Rows) > 0 {
		b.WriteString("\n")
		o.rows(&b, limit)
	}
	return b.String()
}

// rows writes the rows.
func (o *Outcome) rows(b *strings.Builder, limit int) {
	w := tabwriter.NewWriter(b, 0, 8, 2, ' ', 0)
	wants := slices.ContainsFunc(o.Rows, func(r Row) bool { return r.Missing != "" })
	several := slices.ContainsFunc(o.Rows, func(r Row) bool { return r.Log != o.Rows[0].Log })
	fmt.Fprintf(w, "CHANGE\tREQUESTS\t%s", strings.ToUpper(strings.Join(o.By, "\t")))
	if len(o.By) > 0 {
		fmt.Fprint(w, "\t")
	}
	if wants {
		fmt.Fprint(w, "FOR WANT OF\t")
	}
	fmt.Fprint(w, "LINE\n")
	var shown, left [3]int
	for _, r := range o.Rows {
		if limit > 0 && shown[r.kind] == limit {
			left[r.kind]++
			continue
		}
		shown[r.kind]++
		fmt.Fprintf(w, "%s\t%d\t", r.Change, r.Count)
		for _, cell := range r.cells {
			fmt.Fprintf(w, "%s\t", printable(cell))
		}
		if wants {
			fmt.Fprintf(w, "%s\t", r.Missing)
		}
		if several {
			fmt.Fprintf(w, "%s:", r.Log)
		}
		fmt.Fprintf(w, "%d\n", r.Line)
	}
	_ = w.Flush() // into memory
	for kind, n := range left {
		if n > 0 {
			fmt.Fprintf(b, "and %d more rows of %s: see --rows, or -o json\n", n, changeKind(kind))
		}
	}
}

// printable returns a cell that has no more than its column.
func printable(cell string) string {
	if cell == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, cell)
}
