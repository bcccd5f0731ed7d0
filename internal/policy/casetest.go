package policy

import (
	"context"
	"encoding/xml"
	"fmt"
	"strings"
	"time"
)

// A Result is what came of a Case.
type Result struct {
	Case
	File   string
	Passed bool
	Want   string
	Got    string
	Report *Report // nil if the case could not be run: then Got says why
}

// Test runs the cases of a suite in the mesh of its policies.
func Test(ctx context.Context, s *Suite, m *Mesh, now time.Time) []Result {
	out := make([]Result, 0, len(s.Cases))
	for _, c := range s.Cases {
		r := Result{Case: c, File: s.File, Want: c.want()}
		report, err := m.Explain(ctx, c.Request, now)
		switch {
		case err != nil:
			r.Got = err.Error()
		case report.Unsure && report.Allowed:
			r.Report, r.Got = report, "it depends on "+report.asks()+": say under answers what it answers"
		default:
			r.Report, r.Got = report, report.outcome()
			r.Passed = report.Allowed == c.Allow && (c.Policy == "" || c.Policy == report.Policy) && (c.Status == 0 || c.Status == report.Status)
		}
		out = append(out, r)
	}
	return out
}

// asks names the authorizers that would be asked.
func (r *Report) asks() string {
	var names []string
	for _, s := range r.Steps {
		for _, a := range s.Asked {
			if a.Answer != answeredYes && a.Answer != answeredNo {
				names = append(names, a.Provider)
			}
		}
	}
	return strings.Join(names, " and ")
}

// outcome is what came of a request, as it is compared.
func (r *Report) outcome() string { return outcome(r.Allowed, r.Policy, r.Status) }

func (c *Case) want() string { return outcome(c.Allow, c.Policy, c.Status) }

func outcome(allowed bool, policy string, status int) string {
	text := verdict(allowed)
	switch policy {
	case "":
	case "none":
		text += ", no ALLOW rule matching"
	default:
		text += " by " + policy
	}
	if status != 0 {
		text += fmt.Sprintf(", status %d", status)
	}
	return text
}

// why says on what grounds the case came out as it did.
func (r *Result) why() []string {
	if r.Report == nil {
		return nil
	}
	out := []string{"request   " + r.Report.Request.line(), "because   " + r.Report.Line}
	for _, text := range r.Report.Assumed {
		out = append(out, "assumed   "+text)
	}
	for _, text := range r.Report.Problems {
		out = append(out, "refused   "+text)
	}
	return out
}

// place says where the case is.
func (r *Result) place() string { return fmt.Sprintf("%s:%d", r.File, r.Line) }

// Failed counts the cases that did.
func Failed(results []Result) (n int) {
	for i := range results {
		if !results[i].Passed {
			n++
		}
	}
	return n
}

// Text returns results for people: a line for each, and what differs.
func Text(results []Result) string {
	var b strings.Builder
	for i := range results {
		r := &results[i]
		if r.Passed {
			fmt.Fprintf(&b, "ok    %s\n", r.Name)
			continue
		}
		fmt.Fprintf(&b, "FAIL  %s\n      at        %s\n      expected  %s\n      got       %s\n", r.Name, r.place(), r.Want, r.Got)
		for _, line := range r.why() {
			fmt.Fprintf(&b, "      %s\n", line)
		}
	}
	failed := Failed(results)
	fmt.Fprintf(&b, "%d cases, %d passed, %d failed\n", len(results), len(results)-failed, failed)
	return b.String()
}

// TAP returns results in the Test Anything Protocol, version 13.
func TAP(results []Result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "TAP version 13\n1..%d\n", len(results))
	for i := range results {
		r := &results[i]
		ok := "not ok"
		if r.Passed {
			ok = "ok"
		}
		fmt.Fprintf(&b, "%s %d - %s\n", ok, i+1, strings.ReplaceAll(r.Name, "#", `\#`))
		if r.Passed {
			continue
		}
		fmt.Fprintf(&b, "  ---\n  at: %q\n  expected: %q\n  got: %q\n", r.place(), r.Want, r.Got)
		for _, line := range r.why() {
			key, text, _ := strings.Cut(line, " ")
			fmt.Fprintf(&b, "  %s: %q\n", key, strings.TrimSpace(text))
		}
		b.WriteString("  ...\n")
	}
	return b.String()
}

// The elements of JUnit's report, as far as CI systems read them.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name    string        `xml:"name,attr"`
		Class   string        `xml:"classname,attr"`
		File    string        `xml:"file,attr"`
		Line    int           `xml:"line,attr"`
		Failure *junitFailure `xml:"failure"`
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// JUnit returns results as JUnit's XML, a suite for each file.
func JUnit(results []Result) (string, error) {
	out := junitSuites{Tests: len(results), Failures: Failed(results)}
	for i := range results {
		r := &results[i]
		n := len(out.Suites)
		if n == 0 || out.Suites[n-1].Name != r.File {
			out.Suites = append(out.Suites, junitSuite{Name: r.File})
			n++
		}
		s := &out.Suites[n-1]
		c := junitCase{Name: r.Name, Class: r.File, File: r.File, Line: r.Line}
		s.Tests++
		if !r.Passed {
			s.Failures++
			c.Failure = &junitFailure{Message: "expected " + r.Want + "; got " + r.Got, Text: strings.Join(r.why(), "\n")}
		}
		s.Cases = append(s.Cases, c)
	}
	text, err := xml.MarshalIndent(out, "", "  ")
	return xml.Header + string(text) + "\n", err
}
