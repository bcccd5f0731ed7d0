package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// legend says what the columns of scenarios are.
const legend = `CPU is the system's own, user and system, of each request (median [least–most] of the rounds), from its CPU clock; how it divides is from ticks of 10 ms.
Latency is what the generator saw, from when a request was due; in a closed loop, from when it was sent. Sleeps and preemptions are of threads. Memory is what
is anonymous and resident (RssAnon), at its highest. "Generator" is the generator's CPU.
`

// A column is one of a scenario's table.
type column struct {
	title  string
	of     aspect
	spread bool
}

func columnsOf(m *measured) []column {
	cost := column{"CPU µs/request", cpuOf, true}
	if m.Bulk {
		cost = column{"CPU s/GB", cpuPerGBOf, true}
	}
	return []column{
		cost,
		{"user", func(s *sample) float64 { return share(s, s.User) }, false},
		{"system", func(s *sample) float64 { return share(s, s.Kernel) }, false},
		{"requests/s", rateOf, false},
		{"p50 µs", p50Of, true},
		{"p90", p90Of, false},
		{"p99", p99Of, true},
		{"p99.9", p999Of, false},
		{"sleeps/request", func(s *sample) float64 { return s.Waits }, false},
		{"preempted", func(s *sample) float64 { return s.Preempted }, false},
		{"faults", func(s *sample) float64 { return s.Faults }, false},
		{"memory MiB", func(s *sample) float64 { return s.Memory / mib }, false},
		{"generator µs", func(s *sample) float64 { return s.Generator }, false},
	}
}

// share is a part of the CPU time in per cent.
func share(s *sample, part float64) float64 {
	if s.CPU == 0 {
		return 0
	}
	return 100 * part / s.CPU
}

// scenarioTable writes what one scenario found.
func scenarioTable(r *report, m *measured) string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\n", m.Title)
	if m.Commit != r.Commit || !m.When.Equal(r.Date) {
		fmt.Fprintf(&b, "Measured on %s, of %s.\n\n", m.When.Format("2006-01-02 15:04"), m.Commit)
	}
	columns := columnsOf(m)
	b.WriteString("| " + m.Name)
	for _, c := range columns {
		b.WriteString(" | " + c.title)
	}
	b.WriteString(" |\n|---" + strings.Repeat("|---:", len(columns)) + "|\n")
	for _, s := range m.Systems {
		if len(s.Samples) > 0 {
			b.WriteString(systemRow(m, &s, columns))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Missing)) {
		fmt.Fprintf(&b, "\n%s was not run: %s\n", name, oneLine(m.Missing[name]))
	}
	for _, one := range m.Systems {
		if slices.ContainsFunc(one.Samples, func(s sample) bool { return s.Late > 0 }) {
			fmt.Fprintf(&b, "\n%s did not keep up with the rate: its CPU is that of what it answered.\n", one.Name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Failed)) {
		fmt.Fprintf(&b, "\n%s failed: %s\n", name, oneLine(m.Failed[name]))
	}
	return b.String()
}

func systemRow(m *measured, s *measuredOne, columns []column) string {
	row := "| " + s.Name
	if behind(m.Asked, over(s.Samples, rateOf).Median) {
		row += " (did not keep up)"
	}
	alone := over(s.Samples, cpuOf).Max == 0 // there is nothing between
	for i, c := range columns {
		x := over(s.Samples, c.of)
		switch {
		case x.Max == 0 || alone && (i < 3 || c.title == "memory MiB"):
			row += " | –"
		case c.title == "user" || c.title == "system":
			row += " | " + digits(x.Median) + " %"
		case c.spread:
			row += " | " + spreadText(x)
		default:
			row += " | " + digits(x.Median)
		}
	}
	return row + " |\n"
}

// figuresTable writes what is not from scenarios.
func figuresTable(r *report) string {
	if len(r.Figures) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("\n## Other figures\n\n| figure | | " + ours + " | others |\n|---|---|---:|---|\n")
	for _, f := range r.Figures {
		var others []string
		for _, name := range slices.Sorted(maps.Keys(f.Values)) {
			if name != ours {
				others = append(others, name+": "+spreadText(spreadOf(f.Values[name])))
			}
		}
		for _, name := range slices.Sorted(maps.Keys(f.Failed)) {
			others = append(others, name+": none, "+oneLine(f.Failed[name]))
		}
		title, own := f.Title, "–"
		if f.Commit != r.Commit {
			title += " (of " + f.Commit + ")"
		}
		if values := f.Values[ours]; len(values) > 0 {
			own = spreadText(spreadOf(values))
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", title, f.Unit, own, strings.Join(others, "; "))
	}
	return b.String()
}

// callsTable writes system calls per request. Those of which there is less than a
// hundredth for each request are in "others".
func callsTable(r *report) string {
	var b strings.Builder
	for _, m := range r.Scenarios {
		for _, s := range m.Systems {
			if s.Calls == nil {
				continue
			}
			reads, writes := s.Calls.moves()
			allocs := "–"
			if s.Allocs != nil {
				allocs = digits(*s.Allocs)
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s |\n", m.Name, s.Name, allocs, digits(s.Calls[every]), digits(reads), digits(writes), s.Calls.text())
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return "\n## System calls and allocations per request\n\nCounted by the kernel in a round of their own, which they slow. Reads and writes are of everything: sockets, " +
		"the access log, wake-ups. Allocations are objects, as Go counts them.\n\n" +
		"| scenario | system | allocations | system calls | reads | writes | by name |\n|---|---|---:|---:|---:|---:|---|\n" + b.String()
}

// text lists calls by name, the most frequent first.
func (c callsOf) text() string {
	var words []string
	rest := c[every]
	names := slices.SortedFunc(maps.Keys(c), func(a, b string) int {
		switch {
		case c[a] > c[b]:
			return -1
		case c[a] < c[b]:
			return 1
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		if name != every && c[name] >= 0.01 {
			words = append(words, name+" "+digits(c[name]))
			rest -= c[name]
		}
	}
	if rest >= 0.01 {
		words = append(words, "others "+digits(rest))
	}
	return strings.Join(words, ", ")
}

// oneLine is for cells of tables.
func oneLine(s string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", "\\|")
}

func spreadText(s spread) string {
	if s.Min == s.Max {
		return digits(s.Median)
	}
	return fmt.Sprintf("%s [%s–%s]", digits(s.Median), digits(s.Min), digits(s.Max))
}

// digits writes a number with three digits, or all those before its point.
func digits(x float64) string {
	switch {
	case x == 0:
		return "0"
	case x >= 100 || x <= -100:
		return strconv.FormatFloat(x, 'f', 0, 64)
	}
	text := strconv.FormatFloat(x, 'g', 3, 64)
	if strings.Contains(text, "e") {
		text = strings.TrimRight(strconv.FormatFloat(x, 'f', 6, 64), "0")
	}
	return strings.TrimSuffix(text, ".")
}

// bytesText writes an amount.
func bytesText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	x, i := float64(n), 0
	for x >= 1024 && i < len(units)-1 {
		x, i = x/1024, i+1
	}
	return digits(x) + " " + units[i]
}
