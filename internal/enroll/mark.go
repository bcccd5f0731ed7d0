package enroll

import (
	"cmp"
	"context"
	"strings"
	"time"
)

// Values of the annotation ambient.istio.io/redirection.
const (
	markEnabled = "enabled"
	noMark      = "-" // there is none
)

// A mark is an annotation to be set.
type mark struct {
	pod   Pod
	value string
}

// setMark has a pod's annotation set, unless it is or is about to be.
func (e *Enroller) setMark(p *entry, value string) {
	if e.o.Mark == nil || cmp.Or(p.mark, p.pod.Marked, noMark) == value {
		return
	}
	p.mark = value
	e.mu.Lock()
	e.marks[p.pod.UID] = mark{p.pod, value}
	e.mu.Unlock()
	signal(e.write)
}

// setMarks sets annotations, on a goroutine of its own: an API server that is slow
// or away keeps no pod from being captured.
func (e *Enroller) setMarks(ctx context.Context) {
	delay := time.Duration(0)
	for {
		t := time.NewTimer(cmp.Or(delay, time.Hour))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-e.write:
		case <-t.C:
		}
		t.Stop()
		if e.markAll(ctx) {
			delay = 0
		} else {
			delay = min(max(2*delay, e.o.MinBackoff), e.o.MaxBackoff)
		}
	}
}

func (e *Enroller) markAll(ctx context.Context) (done bool) {
	e.mu.Lock()
	marks := e.marks
	e.marks = map[string]mark{}
	e.mu.Unlock()
	done = true
	for uid, m := range marks {
		err := e.o.Mark(ctx, m.pod, strings.TrimPrefix(m.value, noMark))
		if err == nil || ctx.Err() != nil {
			continue
		}
		e.o.Log.Warn("enroll: a pod's annotation could not be set", "pod", m.pod.Namespace+"/"+m.pod.Name, "value", m.value, "error", err)
		done = false
		e.mu.Lock()
		if _, newer := e.marks[uid]; !newer {
			e.marks[uid] = m
		}
		e.mu.Unlock()
	}
	return done
}
