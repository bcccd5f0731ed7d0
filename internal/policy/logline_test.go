package policy

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// line is one of a waypoint's.
const line = `{"start_time":"2026-11-29T10:00:00.123Z","method":"GET","path":"/cart?x=1","protocol":"HTTP/1.1","authority":"cart:8080","user_agent":"curl/8","x_forwarded_for":null,"request_id":"6f3f7f3e-0001","response_code":200,"response_code_details":"via_upstream","connection_termination_details":null,"response_flags":"-","bytes_received":0,"bytes_sent":22,"duration":3,"upstream_service_time":"2","upstream_host":"envoy://connect_originate/10.244.1.24:9080","upstream_cluster":"inbound-vip|8080|http|cart.shop.svc.cluster.local","upstream_local_address":"envoy://internal_client_address/","downstream_local_address":"10.96.0.10:8080","downstream_remote_address":"10.244.2.9:41000","requested_server_name":null,"route_name":"default","upstream_transport_failure_reason":null,"source_principal":"spiffe://cluster.local/ns/shop/sa/web"}`

func TestLogLine(t *testing.T) {
	var l logLine
	if err := l.read(line + "\r"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name      string
		got, want value
	}{
		{"method", l.method, value{"GET", true, false}},
		{"path", l.path, value{"/cart?x=1", true, false}},
		{"code", l.code, value{"200", true, false}},
		{"forwardedFor", l.forwardedFor, value{"", true, true}},
		{"sourcePrincipal", l.sourcePrincipal, value{"spiffe://cluster.local/ns/shop/sa/web", true, false}},
		{"requestPrincipal", l.requestPrincipal, value{}},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.name, tt.got, tt.want)
		}
	}
}

func TestLinesThatAreNotRead(t *testing.T) {
	for text, want := range map[string]error{
		`[2026-11-29T10:00:00.123Z] "GET / HTTP/1.1" 200`: errNotJSON,
		`{"response_code":200`:                            errNotJSON,
		`{"response_code":0200}`:                          errNotJSON,
		`{"response_code":200} {`:                         errNotJSON,
		"{\"path\":\"a\nb\"}":                             errNotJSON,
		`{"level":"info"}`:                                errNotAccess,
		`{"response_code":true}`:                          errNotAccess,
		`[]`:                                              errNotJSON,
		``:                                                errNotJSON,
	} {
		if err := new(logLine).read(text); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", text, err, want)
		}
	}
}

// keys are those that a logLine has, by the names that the log has for them.
var keys = []string{"method", "path", "authority", "user_agent", "x_forwarded_for", "response_code", "response_code_details", "connection_termination_details",
	"response_flags", "upstream_host", "upstream_cluster", "downstream_local_address", "downstream_remote_address", "requested_server_name",
	"source_principal", "request_principal", "policy"}

// The scanner takes what encoding/json takes, and nothing else, and finds the same
// in it.
func FuzzLogLine(f *testing.F) {
	for _, seed := range []string{line, `{}`, `{"path":"\u00e9\"\\\/\ud83d\ude00\ud83d"}`, "{\"path\":\"\xff\"}", `{"pa\u0074h":"x","path":null}`,
		`{"a":{"b":[1,{"c":"}"}]},"path":"x"}`, `{"response_code":-1.5e+3,"x":[],"y":true,"z":false}`, `{"path":{},"path":"y"}`, ` { "path" : "x" } `,
		`{"path":"x",}`, `{"response_code":01}`, `{"path":"x"}{}`, `{"path":tru}`, `{"path":"` + strings.Repeat("x", 300) + `"}`, "{\"path\":\"\u2028\"}"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var l logLine
		s := scanner{text: text}
		got := s.object(&l)
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		var want map[string]any
		if isObject := json.Valid([]byte(text)) && d.Decode(&want) == nil && want != nil; got != isObject {
			t.Fatalf("taken: %t, an object: %t", got, isObject)
		}
		if !got {
			return
		}
		for _, key := range keys {
			if have, want := *l.slot(key), oracle(want, key); !reflect.DeepEqual(have, want) {
				t.Fatalf("%s: got %+v, want %+v", key, have, want)
			}
		}
	})
}

func oracle(m map[string]any, key string) value {
	v, there := m[key]
	switch v := v.(type) {
	case string:
		return value{text: v, there: true}
	case json.Number:
		return value{text: v.String(), there: true}
	case nil:
		return value{there: there, null: there}
	}
	return value{}
}

func TestEverySlotHasItsKey(t *testing.T) {
	var l logLine
	seen := map[*value]string{}
	for _, key := range keys {
		p := l.slot(key)
		if p == nil || seen[p] != "" {
			t.Errorf("%s: slot %p, also of %q", key, p, seen[p])
		}
		seen[p] = key
	}
	if n := reflect.TypeOf(l).NumField(); n != len(keys) {
		t.Errorf("%d fields, %d keys", n, len(keys))
	}
}

func BenchmarkLogLine(b *testing.B) {
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	var l logLine
	for b.Loop() {
		if err := l.read(line); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLogLineByEncodingJSON(b *testing.B) {
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			b.Fatal(err)
		}
	}
}
