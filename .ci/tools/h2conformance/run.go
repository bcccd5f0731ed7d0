package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"
)

// parallel is how many cases run at a time: most of their time they wait to see
// that nothing comes.
const parallel = 8

// A server is what is tried, and how.
type server struct {
	name      string
	config    *config.Config
	explained map[string]string // why a case may fail, by its id
	results   []*result         // in h2spec's order
}

// A result is what came of a case.
type result struct {
	id, title, section string
	test               *spec.TestCase
	err                error // nil: it passed
}

// run runs every case. Its error is about the harness, not about a case.
func (s *server) run(ctx context.Context) error {
	for _, g := range []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()} {
		s.gather(g)
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallel)
	for _, r := range s.results {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			r.try(s.config)
		})
	}
	wg.Wait()
	return ctx.Err()
}

// gather lists the cases of g and of the groups in it.
func (s *server) gather(g *spec.TestGroup) {
	for i, t := range append(g.Tests, g.StrictTests...) {
		if t.Strict && !s.config.Strict {
			continue
		}
		s.results = append(s.results, &result{
			id: fmt.Sprintf("%s/%d", g.ID(), i+1), title: t.Desc, section: section(g), test: t,
		})
	}
	for _, sub := range g.Groups {
		s.gather(sub)
	}
}

// section names the chapter of a group: "http2/6. Frame Definitions".
func section(g *spec.TestGroup) string {
	for !g.IsRoot() && !g.Parent.IsRoot() {
		g = g.Parent
	}
	if g.IsRoot() {
		return g.Key
	}
	return g.Key + "/" + g.Section + " " + g.Name
}

func (r *result) try(c *config.Config) {
	conn, err := spec.Dial(c)
	if err != nil {
		r.err = fmt.Errorf("connection: %w", err)
		return
	}
	defer conn.Close()
	r.err = r.test.Run(c, conn)
}

// verdict reports the cases that fail without an explanation, and the
// explanations without a failure.
func (s *server) verdict() error {
	var errs []error
	known := map[string]bool{}
	for _, r := range s.results {
		known[r.id] = true
		switch why := s.explained[r.id]; {
		case r.err != nil && why == "":
			errs = append(errs, fmt.Errorf("%s: %s %s: %s", s.name, r.id, r.title, oneLine(r)))
		case r.err == nil && why != "":
			errs = append(errs, fmt.Errorf("%s: %s %s: passes, but is listed as not applicable", s.name, r.id, r.title))
		}
	}
	for id := range s.explained {
		if !known[id] && s.config.Strict {
			errs = append(errs, fmt.Errorf("%s: %s is listed, and there is no such case", s.name, id))
		}
	}
	return errors.Join(errs...)
}

// oneLine says what the case wanted, where, and what it saw.
func oneLine(r *result) string {
	if errors.Is(r.err, spec.ErrSkipped) {
		return "left out by h2spec"
	}
	te, ok := errors.AsType[*spec.TestError](r.err)
	if !ok {
		return strings.ReplaceAll(r.err.Error(), "\n", "; ")
	}
	return fmt.Sprintf("want %s; got %s", strings.Join(te.Expected, " or "), te.Actual)
}

// report writes the table: one line a chapter, passed/explained/failed for each
// server; and the explanations.
func report(w io.Writer, servers []*server) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(tw, "h2spec")
	for _, s := range servers {
		fmt.Fprintf(tw, "\t%s", s.name)
	}
	fmt.Fprintln(tw)
	var sections []string
	for _, r := range servers[0].results {
		if len(sections) == 0 || sections[len(sections)-1] != r.section {
			sections = append(sections, r.section)
		}
	}
	for _, name := range append(sections, "") {
		label := name
		if name == "" {
			label = "all"
		}
		fmt.Fprint(tw, label)
		for _, s := range servers {
			fmt.Fprintf(tw, "\t%s", s.count(name))
		}
		fmt.Fprintln(tw)
	}
	tw.Flush()
	for _, s := range servers {
		for _, r := range s.results {
			if r.err != nil {
				why := cmp.Or(s.explained[r.id], "FAILS")
				fmt.Fprintf(w, "\n%s: %s %s\n  %s\n  %s\n", s.name, r.id, r.title, oneLine(r), why)
			}
		}
	}
	fmt.Fprintln(w)
}

// count sums up a section, or all of them.
func (s *server) count(section string) string {
	var passed, explained, failed int
	for _, r := range s.results {
		switch {
		case section != "" && r.section != section:
		case r.err == nil:
			passed++
		case s.explained[r.id] != "":
			explained++
		default:
			failed++
		}
	}
	text := fmt.Sprintf("%d passed", passed)
	for _, x := range []struct {
		n    int
		what string
	}{{explained, "not applicable"}, {failed, "FAILED"}} {
		if x.n > 0 {
			text += fmt.Sprintf(", %d %s", x.n, x.what)
		}
	}
	return text
}
