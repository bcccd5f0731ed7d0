package meshtest

import (
	"strings"
	"time"
)

// patience is how long a test waits for what is about to happen: 10 s, which only
// a test that fails waits for.
const patience = 10 * time.Second

// WaitMetric is WantMetric for what is reported a moment after the client knows.
func (m *Mesh) WaitMetric(selector string, want float64) {
	m.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; {
		got, known := m.Metric(selector)
		if got == want {
			return
		}
		if time.Now().After(end) {
			m.t.Fatalf("%s: got %v, want %v; there are:\n%s", selector, got, want, strings.Join(known, "\n"))
		}
		<-tick.C
	}
}
