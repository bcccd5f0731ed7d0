package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Levels beyond slog's, as ztunnel has them.
const (
	LevelTrace = slog.LevelDebug - 4
	levelOff   = slog.LevelError + 100
)

// LogOptions configure a Log.
type LogOptions struct {
	// Output takes whole lines, one a call: normally a [Writer]. Nil discards.
	Output io.Writer

	// JSON chooses one object a line rather than text in columns.
	JSON bool

	// Level is the initial and Reset level, as [Log.SetLevel] reads it. "" is
	// "info".
	Level string

	now func() time.Time // nil is time.Now
}

// A Log is what the program says about itself, in ztunnel's form:
//
//	2024-08-21T15:32:05.754291Z	info	xds	stream established	peer="istiod"
//	{"level":"info","time":"…","scope":"xds","message":"stream established","peer":"istiod"}
//
// Each line belongs to a scope, and each scope has a level that can be changed
// while the program runs. A Log is safe for concurrent use.
type Log struct {
	// Immutable.
	out     io.Writer
	json    bool
	now     func() time.Time
	initial string

	// levels is replaced whole, scopes only grow.
	mu     sync.Mutex
	levels levels
	scopes map[string]*scope
}

// A scope is the level of one scope, which the data path may ask for.
type scope struct {
	name  string
	level atomic.Int64
}

func (s *scope) enabled(l slog.Level) bool { return int64(l) >= s.level.Load() }

// levels are the levels of scopes and of those below them; "" is every other.
type levels map[string]slog.Level

// NewLog returns a Log, or an error when its level cannot be read.
func NewLog(o LogOptions) (*Log, error) {
	if o.Output == nil {
		o.Output = io.Discard
	}
	if o.Level == "" {
		o.Level = "info"
	}
	if o.now == nil {
		o.now = time.Now
	}
	l := &Log{out: o.Output, json: o.JSON, now: o.now, initial: o.Level, scopes: map[string]*scope{}}
	l.levels = levels{"": slog.LevelInfo}
	if err := l.SetLevel(o.Level); err != nil {
		return nil, err
	}
	l.initial = l.levels.String()
	return l, nil
}

// Scope returns the logger of a scope. A name may have parts, separated by
// "::": the level of "proxy" is also that of "proxy::outbound" unless that has
// one of its own.
func (l *Log) Scope(name string) *slog.Logger {
	return slog.New(&handler{log: l, scope: l.scope(name)})
}

func (l *Log) scope(name string) *scope {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.scopes[name]
	if s == nil {
		s = &scope{name: name}
		s.level.Store(int64(l.levels.of(name)))
		l.scopes[name] = s
	}
	return s
}

// SetLevel changes levels. Its argument is a list, separated by commas, of
// levels for every scope ("debug") and for one ("xds:debug" or "xds=debug");
// those that it does not mention stay, except that a level for every scope,
// wherever in the list, replaces them all. The levels are trace, debug, info, warn, error and off.
// When any part cannot be read nothing changes.
func (l *Log) SetLevel(spec string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	next, named := maps.Clone(l.levels), levels{}
	for part := range strings.SplitSeq(spec, ",") {
		name, word := "", strings.TrimSpace(part)
		if i := strings.LastIndexAny(word, ":="); i >= 0 {
			name, word = strings.TrimSpace(word[:i]), strings.TrimSpace(word[i+1:])
			if name == "" {
				return fmt.Errorf("log: level %q: no scope before %q", spec, word)
			}
		}
		level, ok := parseLevel(word)
		if !ok {
			return fmt.Errorf("log: level %q: %q is none of trace, debug, info, warn, error, off", spec, word)
		}
		if name == "" {
			clear(next)
			next[""] = level
		} else {
			named[name] = level
		}
	}
	maps.Copy(next, named)
	l.levels = next
	for name, s := range l.scopes {
		s.level.Store(int64(next.of(name)))
	}
	return nil
}

// Reset restores the levels that the Log was made with.
func (l *Log) Reset() error { return l.SetLevel(l.initial) }

// String returns the levels in force, as SetLevel reads them.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.levels.String()
}

func (m levels) String() string {
	parts := []string{levelName(m[""])}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if name != "" {
			parts = append(parts, name+":"+levelName(m[name]))
		}
	}
	return strings.Join(parts, ",")
}

// of returns the level of a scope: its own, or that of the nearest above it.
func (m levels) of(name string) slog.Level {
	for {
		if level, ok := m[name]; ok {
			return level
		}
		i := strings.LastIndex(name, "::")
		if i < 0 {
			return m[""]
		}
		name = name[:i]
	}
}

var levelNames = [...]struct {
	level slog.Level
	name  string
}{
	{LevelTrace, "trace"}, {slog.LevelDebug, "debug"}, {slog.LevelInfo, "info"},
	{slog.LevelWarn, "warn"}, {slog.LevelError, "error"}, {levelOff, "off"},
}

func parseLevel(s string) (slog.Level, bool) {
	s = strings.ToLower(s)
	if s == "warning" { // Envoy's name for it, which istioctl sends
		s = "warn"
	}
	for _, l := range levelNames {
		if l.name == s {
			return l.level, true
		}
	}
	return 0, false
}

// levelName returns the name of the greatest named level that is not above l.
func levelName(l slog.Level) string {
	name := levelNames[0].name
	for _, n := range levelNames {
		if n.level <= l {
			name = n.name
		}
	}
	return name
}

// A handler is a slog.Handler that appends lines as ztunnel writes them.
type handler struct {
	// Immutable.
	log    *Log
	scope  *scope
	prefix string // of the names of attributes: the open groups, "a.b."
	attrs  []byte // those of WithAttrs, already appended
}

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return h.scope.enabled(l) }

func (h *handler) WithGroup(name string) slog.Handler {
	c := *h
	c.prefix += name + "."
	return &c
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	b := line{slices.Clip(h.attrs), h.log.json}
	for _, a := range attrs {
		b.attr(h.prefix, a)
	}
	c.attrs = b.b
	return &c
}

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	when := r.Time
	if when.IsZero() {
		when = h.log.now()
	}
	b := newLine(h.log.json)
	fields := b.head(when, r.Level, h.scope.name, r.Message)
	b.b = append(b.b, h.attrs...)
	r.Attrs(func(a slog.Attr) bool {
		b.attr(h.prefix, a)
		return true
	})
	b.end(fields)
	return b.send(h.log.out)
}
