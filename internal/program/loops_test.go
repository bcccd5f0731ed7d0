package program

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystone-mesh/waystone/internal/loop"
	"github.com/waystone-mesh/waystone/telemetry"
)

func TestALoopThatHangsIsLoggedCountedAndShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines bytes.Buffer
		ctx, stop := context.WithCancel(context.Background())
		p := &Process{ctx: ctx}
		var err error
		if p.Log, err = telemetry.NewLog(telemetry.LogOptions{Output: &lines}); err != nil {
			t.Fatal(err)
		}
		if p.Loops, err = loop.NewGroup(2, loop.Options{Portable: true}); err != nil {
			t.Fatal(err)
		}
		defer p.Loops.Close()
		ended := make(chan error)
		go func() { ended <- p.watchLoops() }()
		var r telemetry.Readings
		p.readings(&r)

		p.Loops.Loops()[1].Do(func() { time.Sleep(3 * time.Second) })
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if lag := r.LoopLag().Round(time.Millisecond); lag != 2*time.Second {
			t.Errorf("lag is %v, want 2 s", lag)
		}
		time.Sleep(2 * time.Second)
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if r.LoopHangs() != 1 || r.LoopStalls() != 1 || r.LoopBusy() < 3*time.Second || r.LoopLag() != 0 {
			t.Errorf("%d hangs, %d stalls, busy for %v, lag %v", r.LoopHangs(), r.LoopStalls(), r.LoopBusy(), r.LoopLag())
		}
		got := lines.String()
		hangs, goesOn := strings.Index(got, "a loop hangs"), strings.Index(got, "a loop goes on")
		if hangs < 0 || goesOn < hangs || strings.Count(got, "\n") != 2 || !strings.Contains(got, "loops_test.go:") || !strings.Contains(got, "loop=1") {
			t.Errorf("the log:\n%s", got)
		}

		var shown []loopStats
		text, err := json.Marshal(p.showLoops())
		if err == nil {
			err = json.Unmarshal(text, &shown)
		}
		if err != nil || len(shown) != 2 || shown[1].Loop != 1 || shown[1].Hangs != 1 || shown[1].Longest != 3 || shown[0].Hangs != 0 {
			t.Errorf("%v: %s", err, text)
		}
	})
}
