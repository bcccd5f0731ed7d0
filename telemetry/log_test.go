package telemetry

import (
	"errors"
	"log/slog"
	"math"
	"net/netip"
	"testing"
	"time"
)

func TestLogLines(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		var out sink
		log := newLog(t, LogOptions{Output: &out, JSON: asJSON, Level: "trace"})
		l := log.Scope("xds")
		at := func(level slog.Level, message string, args ...any) {
			r := slog.NewRecord(noon, level, message, 0)
			r.Add(args...)
			if err := l.Handler().Handle(t.Context(), r); err != nil {
				t.Error(err)
			}
		}
		at(slog.LevelInfo, "no fields")
		at(slog.LevelDebug, "kinds", "s", "a b", "i", -1, "u", uint64(2), "f", 1.5, "nan", math.NaN(), "b", true,
			"d", 12*time.Millisecond, "t", noon, "err", errors.New("no\nway"), "addr", netip.MustParseAddr("10.0.0.1"),
			"list", []string{"x", "y"}, "nil", nil)
		at(slog.LevelWarn, "forged\nline\tand column", "key", "v\"\n")
		l = l.With("peer", "istiod").WithGroup("stream")
		at(slog.LevelError, "groups", "id", 7, slog.Group("inner", "x", 1))
		at(LevelTrace, "empty group", slog.Group("none"), slog.Attr{})
		goldenLog(t, "log", asJSON, out.take())
	}
}

func TestLevels(t *testing.T) {
	log := newLog(t, LogOptions{Level: "warn,xds:debug"})
	old := log.Scope("proxy::outbound")
	enabled := func(scope string, level slog.Level) bool {
		return log.Scope(scope).Enabled(t.Context(), level)
	}
	for _, row := range []struct {
		set, want string
		check     func() bool
	}{
		{"", "warn,xds:debug", func() bool { return enabled("xds", slog.LevelDebug) && !enabled("ca", slog.LevelInfo) }},
		{"proxy=info", "warn,proxy:info,xds:debug", func() bool { return old.Enabled(t.Context(), slog.LevelInfo) }},
		{"proxy::outbound:error", "warn,proxy:info,proxy::outbound:error,xds:debug", func() bool {
			return !old.Enabled(t.Context(), slog.LevelWarn) && enabled("proxy::inbound", slog.LevelInfo)
		}},
		{"Debug", "debug", func() bool { return old.Enabled(t.Context(), slog.LevelDebug) && !enabled("xds", LevelTrace) }},
		{"off,ca:TRACE", "off,ca:trace", func() bool { return !enabled("xds", slog.LevelError) && enabled("ca", LevelTrace) }},
		{"access:debug,info", "info,access:debug", func() bool { return enabled("access", slog.LevelDebug) && !enabled("ca", slog.LevelDebug) }},
		{"warning", "warn", func() bool { return enabled("x", slog.LevelWarn) }},
	} {
		if row.set != "" {
			if err := log.SetLevel(row.set); err != nil {
				t.Error(err)
			}
		}
		if got := log.String(); got != row.want || !row.check() {
			t.Errorf("after %q: got %q, want %q, effect %v", row.set, got, row.want, row.check())
		}
	}
	for _, bad := range []string{"loud", "", "debug,xds:", ":debug", "xds:debug,loud", "a:b:c"} {
		if err := log.SetLevel(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	if got := log.String(); got != "warn" {
		t.Errorf("after bad levels: %q, want unchanged", got)
	}
	if err := log.Reset(); err != nil || log.String() != "warn,xds:debug" {
		t.Errorf("after Reset: %q, %v", log.String(), err)
	}
	if _, err := NewLog(LogOptions{Level: "loud"}); err == nil {
		t.Error("NewLog accepted a level that is none")
	}
}
