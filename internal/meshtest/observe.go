package meshtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"sort"
	"strings"
	"sync"

	"github.com/waystone-mesh/waystone/telemetry"
)

// A lineLog gathers what every program logs.
type lineLog struct {
	mu      sync.Mutex
	text    bytes.Buffer
	writers []*telemetry.Writer
}

func (l *lineLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// close ends the writers, which lose nothing more.
func (l *lineLog) close(ctx context.Context) {
	for _, w := range l.writers {
		_ = w.Close(ctx)
	}
}

func (l *lineLog) add(w *telemetry.Writer) { l.writers = append(l.writers, w) }

// lines returns everything that has been logged.
func (l *lineLog) lines() []string {
	for _, w := range l.writers {
		_ = w.Flush(context.Background())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSpace(l.text.String()), "\n")
}

// routines returns the stacks of the goroutines that are of this module, those
// of tests aside.
func routines() (stacks []string) {
	buf := make([]byte, 64<<10)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	for _, s := range strings.Split(string(buf), "\n\n") {
		if strings.Contains(s, "waystone-mesh/waystone/") && !strings.Contains(s, "testing.tRunner(") {
			stacks = append(stacks, s)
		}
	}
	return stacks
}

// Routines returns how many goroutines are of this module, those of tests aside.
func (m *Mesh) Routines() int { return len(routines()) }

// wantRoutines checks that no goroutine is left that was not there before. One
// that has done its work may still be on its way out.
func (m *Mesh) wantRoutines() {
	m.t.Helper()
	var left []string
	if !poll(func() bool { left = routines(); return len(left) <= m.routines }) {
		m.t.Errorf("%d goroutines are left, there were %d:\n%s", len(left), m.routines, strings.Join(left, "\n\n"))
	}
}

// Series returns the series of a family whose value is not zero, of every
// program, each as its labels in order: name="value",…
func (m *Mesh) Series(family string) map[string]float64 {
	m.t.Helper()
	all := map[string]float64{}
	for _, p := range m.programs {
		families, err := p.tel.Metrics().Gather()
		if err != nil {
			m.t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() != family {
				continue
			}
			for _, s := range f.GetMetric() {
				var labels []string
				for _, l := range s.GetLabel() {
					labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
				}
				if v := s.GetCounter().GetValue() + s.GetGauge().GetValue(); v != 0 {
					all[strings.Join(labels, ",")] += v
				}
			}
		}
	}
	return all
}

// WantLog checks that there is an access-log line in which every key has the
// value that follows it.
func (m *Mesh) WantLog(pairs ...any) {
	m.t.Helper()
	lines := m.log.lines()
	if logged(lines, pairs) {
		return
	}
	if n := len(lines); n > 20 {
		lines = lines[n-20:]
	}
	m.t.Errorf("no log line has %v; the last are:\n%s", pairs, strings.Join(lines, "\n"))
}

// WaitLog is WantLog for what is logged a moment after the client knows.
func (m *Mesh) WaitLog(pairs ...any) {
	m.t.Helper()
	if !poll(func() bool { return logged(m.log.lines(), pairs) }) {
		m.WantLog(pairs...)
	}
}

func logged(lines []string, pairs []any) bool {
	for _, line := range lines {
		var got map[string]any
		if json.Unmarshal([]byte(line), &got) != nil {
			continue
		}
		ok := true
		for i := 0; i+1 < len(pairs); i += 2 {
			ok = ok && fmt.Sprint(got[pairs[i].(string)]) == fmt.Sprint(pairs[i+1])
		}
		if ok {
			return true
		}
	}
	return false
}

// Log returns every line logged so far.
func (m *Mesh) Log() []string { return m.log.lines() }

// WantMetric checks the sum over every program of the series that have the
// labels given: `istio_requests_total{response_code="403"}`.
func (m *Mesh) WantMetric(selector string, want float64) {
	m.t.Helper()
	if got, known := m.Metric(selector); got != want {
		m.t.Errorf("%s: got %v, want %v; there are:\n%s", selector, got, want, strings.Join(known, "\n"))
	}
}

// WaitMetric is WantMetric for what is reported a moment after the client knows.
func (m *Mesh) WaitMetric(selector string, want float64) {
	m.t.Helper()
	if !poll(func() bool { got, _ := m.Metric(selector); return got == want }) {
		m.WantMetric(selector, want)
		m.t.FailNow()
	}
}

// Metric returns that sum, and the series of the family for an error message.
func (m *Mesh) Metric(selector string) (sum float64, known []string) {
	m.t.Helper()
	name, rest, _ := strings.Cut(strings.TrimSuffix(selector, "}"), "{")
	want := map[string]string{}
	for _, pair := range strings.SplitAfter(rest, `",`) { // a value may hold commas
		if k, v, ok := strings.Cut(strings.TrimSuffix(pair, ","), "="); ok {
			want[strings.TrimSpace(k)] = strings.Trim(v, `"`)
		}
	}
	for _, p := range m.programs {
		families, err := p.tel.Metrics().Gather()
		if err != nil {
			m.t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() != name {
				continue
			}
			for _, s := range f.GetMetric() {
				labels := map[string]string{}
				for _, l := range s.GetLabel() {
					labels[l.GetName()] = l.GetValue()
				}
				value := s.GetCounter().GetValue() + s.GetGauge().GetValue()
				if h := s.GetHistogram(); h != nil {
					value = float64(h.GetSampleCount())
				}
				known = append(known, fmt.Sprintf("%s%v %v", name, labels, value))
				match := true
				for k, v := range want {
					match = match && labels[k] == v
				}
				if match {
					sum += value
				}
			}
		}
	}
	sort.Strings(known)
	return sum, known
}
