package telemetry

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/netip"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"
)

// lines holds *line, to be made and then queued.
var lines = sync.Pool{New: func() any { return &line{b: make([]byte, 0, 2048)} }}

// newLine takes an empty line from the pool; send gives it back.
func newLine(json bool) *line {
	l := lines.Get().(*line)
	l.b, l.json = l.b[:0], json
	return l
}

func (l *line) send(w io.Writer) error {
	_, err := w.Write(l.b)
	lines.Put(l)
	return err
}

// A line is one line of a Log in the making: text in columns, or JSON.
type line struct {
	b    []byte
	json bool
}

// head begins a line, and returns where its fields begin.
func (l *line) head(when time.Time, level slog.Level, scope, message string) (fields int) {
	if l.json {
		l.b = append(l.b, `{"level":"`...)
		l.b = append(l.b, levelName(level)...)
		l.b = append(l.b, `","time":"`...)
		l.b = appendTime(l.b, when, 6)
		l.b = append(l.b, `","scope":`...)
		l.b = appendJSONString(l.b, scope)
		l.b = append(l.b, `,"message":`...)
		l.b = appendJSONString(l.b, message)
		return len(l.b)
	}
	l.b = appendTime(l.b, when, 6)
	l.b = append(l.b, '\t')
	l.b = append(l.b, levelName(level)...)
	l.b = append(l.b, '\t')
	l.b = append(l.b, scope...)
	l.b = append(l.b, '\t')
	l.b = appendPlain(l.b, message)
	return len(l.b)
}

// end ends the line. Text has a tab between its message and its first field,
// and a blank between fields.
func (l *line) end(fields int) {
	if l.json {
		l.b = append(l.b, '}')
	} else if len(l.b) > fields {
		l.b[fields] = '\t'
	}
	l.b = append(l.b, '\n')
}

func (l *line) key(k string) {
	if l.json {
		l.b = append(l.b, ',')
		l.b = appendJSONString(l.b, k)
		l.b = append(l.b, ':')
		return
	}
	l.b = append(l.b, ' ')
	l.b = append(l.b, k...)
	l.b = append(l.b, '=')
}

// str appends a field that is quoted in text as well.
func (l *line) str(k, v string) {
	l.key(k)
	l.b = appendJSONString(l.b, v)
}

// optional is str, unless there is nothing to say.
func (l *line) optional(k, v string) {
	if v != "" {
		l.str(k, v)
	}
}

// addr appends an address, which text does not quote.
func (l *line) addr(k string, a netip.AddrPort) {
	if !a.IsValid() {
		return
	}
	l.key(k)
	l.bare(func(b []byte) []byte { return a.AppendTo(b) })
}

// bare appends a value that JSON quotes and text does not.
func (l *line) bare(value func([]byte) []byte) {
	if l.json {
		l.b = append(value(append(l.b, '"')), '"')
		return
	}
	l.b = value(l.b)
}

func (l *line) uint(k string, v uint64) {
	l.key(k)
	l.b = strconv.AppendUint(l.b, v, 10)
}

// millis appends a duration as ztunnel's access lines have it: "12ms".
func (l *line) millis(k string, d time.Duration) {
	l.key(k)
	l.b = append(l.b, '"')
	l.b = strconv.AppendInt(l.b, d.Milliseconds(), 10)
	l.b = append(l.b, `ms"`...)
}

// micros appends a duration of which milliseconds are too coarse: "0.042ms".
func (l *line) micros(k string, d time.Duration) {
	l.key(k)
	l.b = append(l.b, '"')
	l.b = strconv.AppendFloat(l.b, float64(d.Microseconds())/1e3, 'f', 3, 64)
	l.b = append(l.b, `ms"`...)
}

// attr appends an attribute of slog's. The members of a group are named
// "group.member".
func (l *line) attr(prefix string, a slog.Attr) {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, m := range v.Group() {
			l.attr(prefix, m)
		}
		return
	}
	if a.Equal(slog.Attr{}) {
		return
	}
	l.key(prefix + a.Key)
	switch v.Kind() {
	case slog.KindInt64:
		l.b = strconv.AppendInt(l.b, v.Int64(), 10)
	case slog.KindUint64:
		l.b = strconv.AppendUint(l.b, v.Uint64(), 10)
	case slog.KindBool:
		l.b = strconv.AppendBool(l.b, v.Bool())
	case slog.KindFloat64:
		if f := v.Float64(); math.IsNaN(f) || math.IsInf(f, 0) {
			l.b = appendJSONString(l.b, v.String())
		} else {
			l.b = strconv.AppendFloat(l.b, f, 'g', -1, 64)
		}
	case slog.KindTime:
		l.b = append(appendTime(append(l.b, '"'), v.Time(), 6), '"')
	case slog.KindAny:
		l.any(v.Any())
	default:
		l.b = appendJSONString(l.b, v.String())
	}
}

// any appends what slog has no kind for: what describes itself in words, as
// those; else its JSON, in a JSON line; else as fmt prints it.
func (l *line) any(v any) {
	switch v.(type) {
	case error, fmt.Stringer:
	default:
		if j, err := json.Marshal(v); l.json && err == nil {
			l.b = append(l.b, j...)
			return
		}
	}
	l.b = appendJSONString(l.b, fmt.Sprint(v))
}

// appendTime appends t in UTC in the form of RFC 3339 with 3 or 6 digits after
// the point. time.AppendFormat reads its layout anew each time, and this is on
// the hot path.
func appendTime(b []byte, t time.Time, digits int) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	b = append2(append2(b, year/100%100), year%100)
	b = append2(append(b, '-'), int(month))
	b = append2(append(b, '-'), day)
	b = append2(append(b, 'T'), hour)
	b = append2(append(b, ':'), minute)
	b = append2(append(b, ':'), second)
	micros := t.Nanosecond() / 1e3
	b = append2(append(b, '.'), micros/1e4)
	if digits == 3 {
		return append(b, byte('0'+micros/1e3%10), 'Z')
	}
	return append(append2(append2(b, micros/100%100), micros%100), 'Z')
}

// append2 appends v, from 0 to 99, as two digits.
func append2(b []byte, v int) []byte {
	return append(b, byte('0'+v/10), byte('0'+v%10))
}

// jsonSafe tells the bytes that a JSON string holds as they are: ASCII but for
// control characters, the quote and the backslash.
var jsonSafe = func() (safe [256]bool) {
	for c := 0x20; c < utf8.RuneSelf; c++ {
		safe[c] = c != '"' && c != '\\'
	}
	return safe
}()

const hexDigits = "0123456789abcdef"

// appendJSONString appends s as a JSON string (RFC 8259, section 7). What is
// not UTF-8 becomes U+FFFD, a byte at a time, as encoding/json has it; unlike
// that, it leaves <, > and & alone.
func appendJSONString(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if jsonSafe[c] {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			b = appendJSONEscape(append(b, s[from:i]...), c)
			i++
			from = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 {
			b = append(append(b, s[from:i]...), "\ufffd"...)
			from = i + 1
		}
		i += size
	}
	return append(append(b, s[from:]...), '"')
}

func appendJSONEscape(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\n':
		return append(b, '\\', 'n')
	case '\r':
		return append(b, '\\', 'r')
	case '\t':
		return append(b, '\\', 't')
	}
	return append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}

// appendPlain appends s for a line of text, in which a control character or
// DEL would forge a line or a column: those become \xNN.
func appendPlain(b []byte, s string) []byte {
	from := 0
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c == 0x7f {
			b = append(append(b, s[from:i]...), '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
			from = i + 1
		}
	}
	return append(b, s[from:]...)
}
