package loop

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"
)

// A Hang is a batch that runs for Options.Hang or longer: nothing else on its
// loop moves meanwhile.
type Hang struct {
	Loop int           // the loop's number in its Group
	Took time.Duration // until now, or in all when it is Over
	Over bool

	// Stack is what the loop was doing, from the innermost call outwards: "" when
	// it is Over.
	Stack string
}

// Watch tells of every batch that hangs, once while it lasts and once when it is
// over, until ctx is done. It looks four times in Options.Hang; a batch that is
// over before it was seen is told of by nobody, and counts in Stats.Hangs. What
// told does must not need the loop.
func (g *Group) Watch(ctx context.Context, told func(Hang)) {
	tick := time.NewTicker(g.hang / 4)
	defer tick.Stop()
	seen := make([]int64, len(g.loops)) // when the batch began that was told of; 0: none
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for i, l := range g.loops {
			l.look(&seen[i], told)
		}
	}
}

// look tells of a batch that has begun to hang, and of one that no longer does.
// Began is another for every batch, and changes after the batch has counted.
func (l *Loop) look(seen *int64, told func(Hang)) {
	began := l.meter.began.Load()
	if *seen != 0 && began != *seen {
		*seen = 0
		told(Hang{Loop: l.number, Took: time.Duration(l.meter.hung.Load()), Over: true})
	}
	took := time.Since(l.epoch) - time.Duration(began)
	if began == 0 || *seen != 0 || took < l.hang {
		return
	}
	if stack := l.stack(); l.meter.began.Load() == began {
		*seen = began
		told(Hang{Loop: l.number, Took: took, Stack: stack})
	}
}

// label marks the goroutine of a loop, and those that it starts, in profiles.
const label = "loop"

// labelled has f run as the loop's, where a profile tells who used the processor.
func (l *Loop) labelled(f func(context.Context)) {
	pprof.Do(context.Background(), pprof.Labels(label, strconv.Itoa(l.number)), f)
}

// stack returns what the loop is doing. Its goroutine is found by the label and
// by the function that it runs: no goroutine has a name.
func (l *Loop) stack() string {
	var profile bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&profile, 1) // 1: as text, and with labels
	mark := fmt.Sprintf("%q:%q", label, strconv.Itoa(l.number))
	for group := range strings.SplitSeq(profile.String(), "\n\n") {
		if strings.Contains(group, mark) && strings.Contains(group, "loop.(*Loop).batch+") {
			return calls(group)
		}
	}
	return ""
}

// calls reads the calls up to that of the batch from a part of a profile, of which
// each line is "#", an address, a function with an offset, and a file with a line.
func calls(group string) string {
	var list []string
	for line := range strings.SplitSeq(group, "\n") {
		f := strings.Fields(line)
		if len(f) < 4 || f[0] != "#" {
			continue
		}
		name, _, _ := strings.Cut(f[2], "+0x")
		list = append(list, fmt.Sprintf("%s (%s)", name, filepath.Base(f[len(f)-1])))
		if strings.HasSuffix(name, "loop.(*Loop).batch") {
			break
		}
	}
	return strings.Join(list, " < ")
}
