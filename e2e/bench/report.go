package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// newReport returns an empty report about this machine.
func newReport(t *tester) *report {
	r := &report{
		Date: time.Now().UTC().Format("2006-01-02"), Machine: thisMachine(), Options: t.o,
		Versions: map[string]string{}, Lacks: map[string]string{}, Figures: map[string]figure{}, Problems: []string{}, Scenarios: []measured{},
	}
	if text, err := run("git", "-C", t.root, "describe", "--always", "--dirty"); err == nil {
		r.Versions["commit"] = strings.TrimSpace(text)
	}
	return r
}

// keep takes over what an older report has found.
func (r *report) keep(old *report) {
	r.Scenarios = append(r.Scenarios, old.Scenarios...)
	maps.Copy(r.Figures, old.Figures)
	for name, version := range old.Versions {
		if _, known := r.Versions[name]; !known {
			r.Versions[name] = version
		}
	}
	maps.Copy(r.Lacks, old.Lacks)
}

// put adds what a scenario has found, in the order of the scenarios.
func (r *report) put(m measured) {
	r.Scenarios = slices.DeleteFunc(r.Scenarios, func(old measured) bool { return old.Name == m.Name })
	r.Scenarios = append(r.Scenarios, m)
	slices.SortStableFunc(r.Scenarios, byName(scenarios()))
}

// markdown writes the report.
func markdown(r *report, notes string) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("# Measured\n\nWritten by `make bench-peers` on %s, from the numbers in report.json.\n\n", r.Date)
	p("- machine: %s, %d cores, %s of memory, Linux %s, %s\n", r.Machine.CPU, r.Machine.Cores, r.Machine.Memory, r.Machine.Kernel, r.Machine.Go)
	p("- rounds: %d of %s each after %s of the same load; systems take turns within a round\n", r.Options.Rounds, r.Options.Duration, r.Options.Warmup)
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		p("- %s: %s\n", name, r.Versions[name])
	}
	p("\nGenerator, system and destination share the cores: rates and latencies are for comparison within a table, and CPU per request, the " +
		"system's own user and system time, is the figure to look at. A ratio is made in each round; median [least–most].\n")
	p("\n## Targets\n\n%s", targetsTable(r))
	if notes != "" {
		p("\n## Targets that were not met\n\n%s\n", strings.TrimSpace(notes))
	}
	if len(r.Problems) > 0 {
		p("\n## Problems\n\n")
		for _, problem := range r.Problems {
			p("- %s\n", strings.ReplaceAll(problem, "\n", " "))
		}
	}
	p("\n## Scenarios\n")
	for i := range r.Scenarios {
		p("\n%s", scenarioTable(&r.Scenarios[i]))
	}
	p("\n## Other figures\n\n| figure | value |\n|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(r.Figures)) {
		if f := r.Figures[name]; f.Failed != "" {
			p("| %s | none: %s |\n", name, oneLine(f.Failed))
		} else {
			p("| %s | %s |\n", name, digits(f.Value))
		}
	}
	p("\n## What the others leave out\n\n")
	for _, name := range slices.Sorted(maps.Keys(r.Lacks)) {
		if r.Lacks[name] != "" {
			p("- %s: %s\n", name, r.Lacks[name])
		}
	}
	p("\n## Again\n\n    make bench-peers\n\nmeasures everything; `cd e2e && go run ./bench -only REGEX` some of it, and `-render` writes this page anew.\n")
	return b.String()
}

// targetsTable writes the table of targets.
func targetsTable(r *report) string {
	var b strings.Builder
	b.WriteString("| figure | target | measured | |\n|---|---|---|---|\n")
	for _, t := range targets() {
		limit := "≤ " + digits(t.limit)
		if t.least {
			limit = "≥ " + digits(t.limit)
		}
		measured, verdict := "", "not measured"
		if s, ok := t.find(r); ok {
			measured, verdict = spreadText(s), "**not met**"
			if t.met(s.Median) {
				verdict = "met"
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", t.name, strings.TrimSpace(limit+" "+t.of), measured, verdict)
	}
	return b.String()
}

// scenarioTable writes what one scenario found.
func scenarioTable(m *measured) string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\n", m.Title)
	cost, of := "CPU µs/request", cpuOf
	if slices.ContainsFunc(m.Systems, func(s measuredOne) bool { return len(s.Samples) > 0 && s.Samples[0].CPUPerGB > 0 }) {
		cost, of = "CPU s/GB", cpuPerGBOf
	}
	fmt.Fprintf(&b, "| system | %s | requests/s | p50 µs | p90 | p99 | p99.9 | sleeps/request | memory MiB |\n|---|---|---|---|---|---|---|---|---|\n", cost)
	for _, s := range m.Systems {
		if len(s.Samples) == 0 {
			continue
		}
		fmt.Fprintf(&b, "| %s | %s", s.Name, spreadText(over(s.Samples, of)))
		for _, field := range []func(*sample) float64{
			func(s *sample) float64 { return s.Rate }, p50Of, func(s *sample) float64 { return s.P90 }, p99Of,
			func(s *sample) float64 { return s.P999 }, func(s *sample) float64 { return s.Switches }, func(s *sample) float64 { return float64(s.RSS) / mib },
		} {
			b.WriteString(" | " + digits(over(s.Samples, field).Median))
		}
		b.WriteString(" |\n")
	}
	for _, name := range slices.Sorted(maps.Keys(m.Missing)) {
		fmt.Fprintf(&b, "\n%s was not run: %s\n", name, oneLine(m.Missing[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(m.Failed)) {
		fmt.Fprintf(&b, "\n%s failed: %s\n", name, oneLine(m.Failed[name]))
	}
	return b.String()
}

func oneLine(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", " ") }

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
		text = strconv.FormatFloat(x, 'f', 6, 64)
	}
	return text
}
