package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// A report is everything that a run has found: report.json.
type report struct {
	Date      time.Time         `json:"date"`
	Commit    string            `json:"commit"`
	Machine   machine           `json:"machine"`
	Versions  map[string]string `json:"versions"`
	Lacks     map[string]string `json:"lacks"` // what systems leave out
	Options   options           `json:"options"`
	Took      float64           `json:"took"` // s
	Scenarios []measured        `json:"scenarios"`
	Figures   []figure          `json:"figures"`
	Checked   checked           `json:"checked"`
	Problems  []problem         `json:"problems"`
}

// A problem is an unexpected answer, a leak, a death.
type problem struct {
	About string `json:"about"` // the scenario or the probe
	Text  string `json:"text"`
}

func (p problem) String() string { return p.About + ": " + p.Text }

// options are what a run was told.
type options struct {
	Rounds   int    `json:"rounds"`
	Duration string `json:"duration"`
	Warmup   string `json:"warmup"`
	Quick    bool   `json:"quick"`
}

// checked says what was found in order.
type checked struct {
	Requests int64 `json:"requests"` // that the generators counted, each with the status and the content that it should have
	Served   int64 `json:"served"`   // that the destinations counted
	Bytes    int64 `json:"bytes"`    // of content, compared by CRC
	Logged   int64 `json:"logged"`   // lines in access logs that were compared with requests
	Systems  int   `json:"systems"`  // that were looked at for leaks after their last round
}

// A measured is what came of a scenario.
type measured struct {
	Name    string            `json:"name"`
	Title   string            `json:"title"`
	Asked   int               `json:"asked"` // requests per second; 0: a closed loop
	Bulk    bool              `json:"bulk"`
	When    time.Time         `json:"when"`
	Commit  string            `json:"commit"`
	Systems []measuredOne     `json:"systems"`
	Missing map[string]string `json:"missing"` // systems that were not run, and why
	Failed  map[string]string `json:"failed"`  // systems that failed, and how
}

type measuredOne struct {
	Name    string   `json:"name"`
	Samples []sample `json:"samples"`

	// Per request, from a round of their own. Nil: not counted.
	Calls     callsOf  `json:"calls,omitempty"`
	NotCalled string   `json:"notCalled,omitempty"` // why Calls is nil
	Allocs    *float64 `json:"allocs,omitempty"`    // objects that ours allocates
	Moves     *float64 `json:"moves,omitempty"`     // reads and writes on connections, as the loops of ours count them
}

// of returns what a system's part was, or nil.
func (m *measured) of(name string) *measuredOne {
	if i := slices.IndexFunc(m.Systems, func(o measuredOne) bool { return o.Name == name }); i >= 0 {
		return &m.Systems[i]
	}
	return nil
}

// why says why a scenario has nothing about a system.
func (m *measured) why(name string) string {
	if text, ok := m.Missing[name]; ok {
		return text
	}
	if text, ok := m.Failed[name]; ok {
		return text
	}
	return name + " was not part of it"
}

// A figure is one number of some systems that is not from a scenario.
type figure struct {
	Name   string               `json:"name"`
	Title  string               `json:"title"`
	Unit   string               `json:"unit"`
	When   time.Time            `json:"when"`
	Commit string               `json:"commit"`
	Values map[string][]float64 `json:"values"` // by system, one a round
	Failed map[string]string    `json:"failed"` // systems that have none, and why
}

func (r *report) scenario(name string) *measured {
	if i := slices.IndexFunc(r.Scenarios, func(m measured) bool { return m.Name == name }); i >= 0 {
		return &r.Scenarios[i]
	}
	return nil
}

func (r *report) figure(name string) *figure {
	if i := slices.IndexFunc(r.Figures, func(f figure) bool { return f.Name == name }); i >= 0 {
		return &r.Figures[i]
	}
	return nil
}

// keep takes over what an older report has found, except for the problems of what
// is measured anew.
func (r *report) keep(old *report, anew func(name string) bool) {
	r.Scenarios, r.Figures = old.Scenarios, old.Figures
	r.Problems = slices.DeleteFunc(old.Problems, func(p problem) bool { return anew(p.About) })
	maps.Copy(r.Versions, old.Versions)
	maps.Copy(r.Lacks, old.Lacks)
}

// put adds what a scenario has found, in the order of the scenarios.
func (r *report) put(m measured) {
	m.When, m.Commit = r.Date, r.Commit
	r.Scenarios = slices.DeleteFunc(r.Scenarios, func(old measured) bool { return old.Name == m.Name })
	r.Scenarios = append(r.Scenarios, m)
	at := map[string]int{}
	for i, s := range scenarios() {
		at[s.name] = i
	}
	slices.SortStableFunc(r.Scenarios, func(a, b measured) int { return at[a.Name] - at[b.Name] })
}

// add adds a figure.
func (r *report) add(f figure) {
	f.When, f.Commit = r.Date, r.Commit
	r.Figures = slices.DeleteFunc(r.Figures, func(old figure) bool { return old.Name == f.Name })
	r.Figures = append(r.Figures, f)
}

// results is where a report is kept.
type results struct{ dir string }

func (s results) path(name string) string { return filepath.Join(s.dir, name) }

func (s results) read() (*report, error) {
	text, err := os.ReadFile(s.path("report.json"))
	if err != nil {
		return nil, err
	}
	r := new(report)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s: %w", s.path("report.json"), err)
	}
	return r, nil
}

// write writes the numbers, and the page.
func (s results) write(r *report) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(s.path("report.json"), append(text, '\n'), 0o644), s.render(r))
}

// render writes the page, from the numbers and from what people have written in
// notes.md.
func (s results) render(r *report) error {
	notes, err := os.ReadFile(s.path("notes.md"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	page, err := markdown(r, string(notes))
	if err != nil {
		return err
	}
	return os.WriteFile(s.path("report.md"), []byte(page), 0o644)
}
