package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// JSON returns r as an indented object.
func (r *Result) JSON() []byte {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		panic(err) // it is numbers and strings
	}
	return append(b, '\n')
}

// String returns r as a person reads it: what was asked, how long the answers
// took, and a histogram 80 columns wide.
func (r *Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d requests in %.1f s, %s a second\n%d tunnels on %d connections", r.Requests, r.Seconds, plainNumber(r.Rate), r.Tunnels, r.Connections)
	if r.QueuedMax > 0 {
		fmt.Fprintf(&b, "; up to %d requests waited for a tunnel", r.QueuedMax)
	}
	fmt.Fprintf(&b, "\ncontent: %s received, %s sent; generator: %.2f s of CPU", bytesText(r.BytesReceived), bytesText(r.BytesSent), r.CPUSeconds)
	b.WriteString("\nerrors: " + errorsText(r.Errors) + "\n")
	if r.Requests == 0 {
		return b.String()
	}
	l := r.Latency
	b.WriteString("\nlatency  min     mean    p50     p75     p90     p95     p99     p99.9   max\n        ")
	for _, us := range []float64{l.Min, l.Mean, l.P50, l.P75, l.P90, l.P95, l.P99, l.P999, l.Max} {
		fmt.Fprintf(&b, " %-7s", microseconds(us))
	}
	b.WriteString("\n\n")
	b.WriteString(histogram(r.Histogram))
	return trimLines(b.String())
}

// maxBars is how many lines a histogram has: buckets are put together until
// there are no more.
const maxBars = 20

// histogram draws buckets, one a line.
func histogram(buckets []Bucket) string {
	for len(buckets) > maxBars {
		pairs := make([]Bucket, 0, (len(buckets)+1)/2)
		for pair := range slices.Chunk(buckets, 2) {
			last := pair[len(pair)-1]
			if len(pair) == 2 {
				last.Count += pair[0].Count
			}
			pairs = append(pairs, last)
		}
		buckets = pairs
	}
	var most, all int64
	for _, k := range buckets {
		most, all = max(most, k.Count), all+k.Count
	}
	var b strings.Builder
	const width = 50
	for _, k := range buckets {
		bar := ""
		if most > 0 {
			bar = strings.Repeat("▇", int((k.Count*width+most-1)/most))
		}
		fmt.Fprintf(&b, "%9s %6.2f%% %s\n", "≤"+microseconds(float64(k.UpTo)), 100*float64(k.Count)/float64(max(all, 1)), bar)
	}
	return b.String()
}

// String returns s as a person reads it.
func (s *Served) String() string {
	return fmt.Sprintf("%d requests over %d tunnels on %d connections; %d tunnels open at the end\ncontent: %s received, %s sent\nerrors: %s\n",
		s.Requests, s.Accepted, s.Connections, s.Open, bytesText(s.BytesReceived), bytesText(s.BytesSent), errorsText(s.Errors))
}

// errorsText lists errors by kind, the most frequent first.
func errorsText(errs map[string]int64) string {
	if len(errs) == 0 {
		return "none"
	}
	kinds := slices.Sorted(maps.Keys(errs))
	slices.SortStableFunc(kinds, func(a, b string) int { return int(errs[b] - errs[a]) })
	for i, kind := range kinds {
		kinds[i] = fmt.Sprintf("%s ×%d", kind, errs[kind])
	}
	return strings.Join(kinds, ", ")
}

// microseconds writes a time with three digits.
func microseconds(us float64) string {
	switch {
	case us < 999.5:
		return fmt.Sprintf("%.0fµs", us)
	case us < 9995:
		return fmt.Sprintf("%.2fms", us/1e3)
	case us < 99_950:
		return fmt.Sprintf("%.1fms", us/1e3)
	case us < 999_500:
		return fmt.Sprintf("%.0fms", us/1e3)
	}
	return fmt.Sprintf("%.2fs", us/1e6)
}

func plainNumber(n float64) string {
	if n < 100 {
		return fmt.Sprintf("%.1f", n)
	}
	return fmt.Sprintf("%.0f", n)
}

func bytesText(n int64) string {
	for _, unit := range []struct {
		name string
		size int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= unit.size {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(unit.size), unit.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}

func trimLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

// A Screen shows how far a run has come, on one line that it writes over.
type Screen struct {
	out   io.Writer
	on    bool
	shown bool
}

// NewScreen returns a Screen on a terminal; one that is not on shows nothing.
func NewScreen(out io.Writer, on bool) *Screen { return &Screen{out: out, on: on} }

// columns is how wide a terminal is taken to be.
const columns = 80

// clearLine moves to the beginning of the line, which it clears.
const clearLine = "\r\x1b[K"

// Progress shows p.
func (s *Screen) Progress(p Progress) {
	if s.on {
		s.shown = true
		line := []rune(p.String())
		fmt.Fprint(s.out, clearLine+string(line[:min(len(line), columns-1)])) // one that wraps cannot be cleared
	}
}

// Clear ends the showing.
func (s *Screen) Clear() {
	if s.shown {
		fmt.Fprint(s.out, clearLine)
	}
}

// String returns p in a line.
func (p Progress) String() string {
	text := p.Phase
	if p.Of > 0 {
		text += fmt.Sprintf(" %v/%v", p.Elapsed.Round(time.Second), p.Of.Round(time.Second))
	}
	if p.Phase == "opening" {
		return fmt.Sprintf("%s: %d tunnels", text, p.Tunnels)
	}
	text += fmt.Sprintf(": %s/s", plainNumber(p.Rate))
	if p.P50 > 0 {
		text += fmt.Sprintf(" p50 %s p99 %s", microseconds(float64(p.P50.Microseconds())), microseconds(float64(p.P99.Microseconds())))
	}
	if p.Errors > 0 {
		text += fmt.Sprintf(" errors %d", p.Errors)
	}
	if p.Queued > 0 {
		text += fmt.Sprintf(" waiting %d", p.Queued)
	}
	return text
}
