package meshtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
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

// WantLog checks that there is an access-log line in which every key has the
// value that follows it.
func (m *Mesh) WantLog(pairs ...any) {
	m.t.Helper()
	lines := m.log.lines()
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
			return
		}
	}
	if n := len(lines); n > 20 {
		lines = lines[n-20:]
	}
	m.t.Errorf("no log line has %v; the last are:\n%s", pairs, strings.Join(lines, "\n"))
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

// Metric returns that sum, and the series of the family for an error message.
func (m *Mesh) Metric(selector string) (sum float64, known []string) {
	m.t.Helper()
	name, rest, _ := strings.Cut(strings.TrimSuffix(selector, "}"), "{")
	want := map[string]string{}
	for _, pair := range strings.Split(rest, ",") {
		if k, v, ok := strings.Cut(pair, "="); ok {
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
