package admin

import (
	"compress/gzip"
	"io"
	"strings"
	"testing"
)

func TestProfilesHaveIstiosParameters(t *testing.T) {
	c := start(t, Options{})
	for query, want := range map[string]string{
		"seconds=0": "seconds: \"0\" is not a number from 1 to 300", "seconds=301": "from 1 to 300", "seconds=x": "from 1 to 300", "seconds=": "from 1 to 300",
		"seconds=-1": "from 1 to 300", "frequency=0": "from 1 to 1000", "frequency=1001": "from 1 to 1000", "frequency=99": "100 samples a second", "%zz": "invalid",
	} {
		c.want(400, want, "GET", "admin", "/debug/pprof/profile?"+query)
	}
	c.want(405, "", "POST", "admin", "/debug/pprof/profile")
	c.want(200, "heap profiling active: true\n", "GET", "admin", "/debug/pprof/heap/profiling")
	c.want(200, "heap profiling active: true\n", "POST", "admin", "/debug/pprof/heap/profiling?activate=true")
	c.want(400, "stays on", "POST", "admin", "/debug/pprof/heap/profiling?activate=false")
	c.want(400, "neither true nor false", "GET", "admin", "/debug/pprof/heap/profiling?activate=1")
	if testing.Short() {
		return
	}
	res, got := c.ask("GET", "admin", "/debug/pprof/profile?seconds=1&frequency=100")
	z, err := gzip.NewReader(strings.NewReader(got))
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("%d, %v: %.100q", res.StatusCode, err, got)
	}
	if b, err := io.ReadAll(z); err != nil || !strings.Contains(string(b), "nanoseconds") {
		t.Errorf("no profile of CPU time: %v", err)
	}
}
