package telemetry

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// Fields of OTLP 1.x messages (opentelemetry/proto/{collector/logs,logs,common,
// resource}/v1). They are written as they are on the wire: a message of generated
// types would be a hundred small objects for each line.
const (
	requestResourceLogs = 1
	resourceLogsRes     = 1
	resourceLogsScope   = 2
	resourceAttributes  = 1
	scopeLogsScope      = 1
	scopeLogsRecords    = 2
	scopeName           = 1

	recordTime         = 1
	recordSeverity     = 2
	recordSeverityText = 3
	recordBody         = 5
	recordAttributes   = 6
	recordFlags        = 8
	recordTraceID      = 9
	recordSpanID       = 10
	recordObserved     = 11

	keyValueKey   = 1
	keyValueValue = 2

	anyString = 1
	anyBool   = 2
	anyInt    = 3
	anyDouble = 4

	responsePartial = 1
	partialRejected = 1
	partialMessage  = 2
)

// A logRecord is one of OTLP's in the making.
type logRecord struct {
	b     []byte // room for its tag and length, and then what is in it
	field protowire.Number
	line  line // the same as a line of JSON
}

// lead is the room for a record's tag and length.
const lead = 1 + 5

// logRecords holds *logRecord, to be made and then queued.
var logRecords = sync.Pool{New: func() any {
	return &logRecord{b: make([]byte, lead, 2048), line: line{b: make([]byte, 0, 2048), json: true}}
}}

// newLogRecord takes an empty record from the pool; send gives it back.
func newLogRecord(when time.Time, level slog.Level) *logRecord {
	r := logRecords.Get().(*logRecord)
	r.b, r.line.b, r.field = r.b[:lead], r.line.b[:0], recordAttributes
	nanos := uint64(when.UnixNano())
	r.b = protowire.AppendFixed64(protowire.AppendTag(r.b, recordTime, protowire.Fixed64Type), nanos)
	r.b = protowire.AppendFixed64(protowire.AppendTag(r.b, recordObserved, protowire.Fixed64Type), nanos)
	number, text := severity(level)
	r.b = protowire.AppendVarint(protowire.AppendTag(r.b, recordSeverity, protowire.VarintType), number)
	r.b = protowire.AppendString(protowire.AppendTag(r.b, recordSeverityText, protowire.BytesType), text)
	return r
}

// severity returns SeverityNumber and the text that is usual for it.
func severity(l slog.Level) (uint64, string) {
	switch {
	case l >= slog.LevelError:
		return 17, "ERROR"
	case l >= slog.LevelWarn:
		return 13, "WARN"
	}
	return 9, "INFO"
}

func (r *logRecord) body(text []byte) {
	text = valid(text)
	r.b = protowire.AppendTag(r.b, recordBody, protowire.BytesType)
	r.b = protowire.AppendVarint(r.b, uint64(1+protowire.SizeBytes(len(text))))
	r.b = protowire.AppendBytes(protowire.AppendTag(r.b, anyString, protowire.BytesType), text)
}

// of says which trace the record belongs to, and which span of it, if they are
// known.
func (r *logRecord) of(trace [16]byte, span [8]byte, sampled bool) {
	if trace == [16]byte{} {
		return
	}
	r.b = protowire.AppendBytes(protowire.AppendTag(r.b, recordTraceID, protowire.BytesType), trace[:])
	if span != [8]byte{} {
		r.b = protowire.AppendBytes(protowire.AppendTag(r.b, recordSpanID, protowire.BytesType), span[:])
	}
	if sampled {
		r.b = protowire.AppendFixed32(protowire.AppendTag(r.b, recordFlags, protowire.Fixed32Type), 1)
	}
}

// send queues the record, behind its tag and length.
func (r *logRecord) send(w *Writer) {
	var head [lead]byte
	h := protowire.AppendTag(head[:0], scopeLogsRecords, protowire.BytesType)
	h = protowire.AppendVarint(h, uint64(len(r.b)-lead))
	from := lead - len(h)
	copy(r.b[from:], h)
	_, _ = w.Write(r.b[from:]) // it counts what it drops
	logRecords.Put(r)
}

// attribute appends a KeyValue whose AnyValue has size bytes, which the caller
// appends.
func (r *logRecord) attribute(key string, size int) {
	r.b = protowire.AppendTag(r.b, r.field, protowire.BytesType)
	r.b = protowire.AppendVarint(r.b, uint64(1+protowire.SizeBytes(len(key))+1+protowire.SizeBytes(size)))
	r.b = protowire.AppendString(protowire.AppendTag(r.b, keyValueKey, protowire.BytesType), key)
	r.b = protowire.AppendTag(r.b, keyValueValue, protowire.BytesType)
	r.b = protowire.AppendVarint(r.b, uint64(size))
}

// str appends an attribute, unless there is nothing to say.
func (r *logRecord) str(key, v string) {
	if v == "" {
		return
	}
	v = strings.ToValidUTF8(v, "\ufffd")
	r.attribute(key, 1+protowire.SizeBytes(len(v)))
	r.b = protowire.AppendString(protowire.AppendTag(r.b, anyString, protowire.BytesType), v)
}

func (r *logRecord) text(key string, v []byte) {
	v = valid(v)
	r.attribute(key, 1+protowire.SizeBytes(len(v)))
	r.b = protowire.AppendBytes(protowire.AppendTag(r.b, anyString, protowire.BytesType), v)
}

func (r *logRecord) int(key string, v int64) {
	r.attribute(key, 1+protowire.SizeVarint(uint64(v)))
	r.b = protowire.AppendVarint(protowire.AppendTag(r.b, anyInt, protowire.VarintType), uint64(v))
}

func (r *logRecord) bool(key string, v bool) {
	r.attribute(key, 2)
	r.b = protowire.AppendVarint(protowire.AppendTag(r.b, anyBool, protowire.VarintType), protowire.EncodeBool(v))
}

// address appends an address and its port, as the semantic conventions have them.
func (r *logRecord) address(of string, a netip.AddrPort) {
	if a.IsValid() {
		r.str(of+".address", a.Addr().String())
		r.int(of+".port", int64(a.Port()))
	}
}

// valid returns p as UTF-8: what is not would spoil the whole request.
func valid(p []byte) []byte {
	if utf8.Valid(p) {
		return p
	}
	return bytes.ToValidUTF8(p, []byte("\ufffd"))
}

// fields appends the members of a JSON object as attributes, so that a record has
// exactly what the line has. What is null is left out; what is neither a string, a
// number nor a boolean is a string of its JSON. It stops at what is not JSON as we
// write it.
func (r *logRecord) fields(p []byte) {
	for {
		p = bytes.TrimLeft(p, "{,")
		key, rest, ok := quoted(p)
		if !ok || len(rest) < 2 || rest[0] != ':' {
			return
		}
		name, value := string(valid(key)), rest[1:]
		n := valueEnd(value)
		p, value = value[n:], value[:n]
		switch {
		case n == 0:
			return
		case value[0] == '"':
			r.text(name, unescape(value))
		case string(value) == "null":
		case string(value) == "true" || string(value) == "false":
			r.bool(name, value[0] == 't')
		default:
			if i, err := strconv.ParseInt(string(value), 10, 64); err == nil {
				r.int(name, i)
			} else {
				r.text(name, value)
			}
		}
	}
}

// quoted returns the string that p begins with, as it is between its quotes, and
// what follows it.
func quoted(p []byte) (s, rest []byte, ok bool) {
	if len(p) == 0 || p[0] != '"' {
		return nil, nil, false
	}
	for i := 1; i < len(p); i++ {
		switch p[i] {
		case '\\':
			i++
		case '"':
			return p[1:i], p[i+1:], true
		}
	}
	return nil, nil, false
}

// valueEnd returns how long the value is that p begins with, 0 if it has no end.
func valueEnd(p []byte) int {
	depth := 0
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '"':
			_, rest, ok := quoted(p[i:])
			if !ok {
				return 0
			}
			i = len(p) - len(rest) - 1
		case '[', '{':
			depth++
		case ']', '}':
			if depth == 0 {
				return i
			}
			depth--
		case ',':
			if depth == 0 {
				return i
			}
		}
	}
	if depth > 0 {
		return 0
	}
	return len(p)
}

// unescape returns what a JSON string says.
func unescape(p []byte) []byte {
	if !slices.Contains(p, '\\') {
		return p[1 : len(p)-1]
	}
	var s string
	if json.Unmarshal(p, &s) != nil {
		return p
	}
	return []byte(s)
}
