package demo

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/examples/bookinfo"
)

const (
	outboundLine = "2023-08-28T10:39:33.716634Z  INFO outbound{id=86e9ab}: ztunnel::proxy::outbound: proxy to 10.244.1.24:9080 using HBONE via 10.244.1.24:15008 type Direct"
	inboundLine  = "2023-08-28T10:39:33.720000Z  INFO inbound{id=86e9ab peer_ip=10.244.2.9 peer_id=spiffe://cluster.local/ns/default/sa/sleep}: ztunnel::proxy::inbound: got CONNECT request to 10.244.1.24:9080"
)

func TestAPatternIsAllOfItsTexts(t *testing.T) {
	for _, row := range []struct {
		p    pattern
		want bool
	}{
		{pattern{"proxy to 10.244.1.24:9080", "type Direct"}, true},
		{pattern{"type Direct", "proxy to"}, true},
		{pattern{"proxy to", "type ToServerWaypoint"}, false},
		{nil, true},
	} {
		if got := row.p.matches(outboundLine); got != row.want {
			t.Errorf("%v: got %v", row.p, got)
		}
	}
}

func TestConnectionID(t *testing.T) {
	for line, want := range map[string]string{
		outboundLine: "86e9ab", inboundLine: "86e9ab",
		"2023-08-28T10:39:33Z\tinfo\taccess\tconnection complete": "", "inbound{id=": "", "": "",
	} {
		if got := connectionID(line); got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}

func TestRouteName(t *testing.T) {
	for line, want := range map[string]string{
		`{"route_name":"default.reviews.0","path":"/"}`: "default.reviews.0",
		`{"route_name":null}`:                           "",
		"not JSON":                                      "",
	} {
		if got := routeName(line); got != want {
			t.Errorf("%s: got %q, want %q", line, got, want)
		}
	}
}

func TestLogsAreReadFromAnOffsetInWholeLines(t *testing.T) {
	l := logFile{"test", filepath.Join(t.TempDir(), "log")}
	if l.end() != 0 || l.lines(0) != nil {
		t.Error("a log that is not there has something in it")
	}
	write := func(text string) {
		f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	write("old line\n")
	after := l.end()
	write("half")
	if got := l.lines(after); got != nil {
		t.Errorf("got %q of half a line", got)
	}
	write(" and whole\nnext\n")
	if got := strings.Join(l.lines(after), "|"); got != "half and whole|next" {
		t.Errorf("got %q", got)
	}
	if line, err := l.await(t.Context(), after, pattern{"whole"}); line != "half and whole" || err != nil {
		t.Errorf("got %q, %v", line, err)
	}
}

func TestExpectations(t *testing.T) {
	page := bookinfo.Answer{Status: 200, Body: []byte("<html>\n<title>Simple Bookstore App</title>")}
	forbidden := bookinfo.Answer{Status: 403, Body: []byte("RBAC: access denied")}
	none := bookinfo.Answer{Err: errors.New("connection not allowed by ruleset")}
	for _, row := range []struct {
		want expectation
		got  bookinfo.Answer
		met  bool
		seen string
	}{
		{expectation{200, "Bookstore"}, page, true, "200 Bookstore"},
		{expectation{200, "Bookstore"}, forbidden, false, "403 RBAC: access denied"},
		{expectation{200, ""}, none, false, "connection not allowed by ruleset"},
		{expectation{403, "RBAC: access denied"}, forbidden, true, "403 RBAC: access denied"},
		{expectation{}, none, true, "connection not allowed by ruleset"},
		{expectation{0, "not allowed"}, none, true, "connection not allowed by ruleset"},
		{expectation{0, "not allowed"}, bookinfo.Answer{Err: errors.New("reset")}, false, "reset"},
		{expectation{}, page, false, "200 <html>"},
	} {
		if got := row.want.met(row.got); got != row.met {
			t.Errorf("%v of %+v: got %v", row.want, row.got, got)
		}
		if got := row.want.describe(row.got); got != row.seen {
			t.Errorf("%v of %+v: got %q, want %q", row.want, row.got, got, row.seen)
		}
	}
}

func TestAClientsOutputIsRead(t *testing.T) {
	a := readAnswer(strings.NewReader("HTTP/1.1 403 Forbidden\r\nServer: x\r\nA: b\r\n\r\nRBAC: access denied"))
	if a.Err != nil || a.Proto != "HTTP/1.1" || a.Status != 403 || string(a.Body) != "RBAC: access denied" {
		t.Errorf("got %+v", a)
	}
	for _, bad := range []string{"", "RBAC\n", "HTTP/1.1 200 OK\r\nA: b"} {
		if a := readAnswer(strings.NewReader(bad)); a.Err == nil {
			t.Errorf("%q: got %+v", bad, a)
		}
	}
}

func TestALostRequestIsToldApart(t *testing.T) {
	whole := []byte("Book Details")
	for _, row := range []struct {
		a    bookinfo.Answer
		want string
	}{
		{bookinfo.Answer{Status: 200, Body: whole}, ""},
		{bookinfo.Answer{Status: 200, Body: []byte("something else")}, "the page lacks a part"},
		{bookinfo.Answer{Status: 503, Body: []byte("upstream\nmore")}, `503 "upstream"`},
		{bookinfo.Answer{Err: errors.New("reset")}, "reset"},
	} {
		if got := lost(row.a); got != row.want {
			t.Errorf("%+v: got %q, want %q", row.a, got, row.want)
		}
	}
}

func TestColourIsForTerminals(t *testing.T) {
	for _, color := range []bool{true, false} {
		var out bytes.Buffer
		p := &printer{color: color, out: &out}
		p.step(1, "A title")
		p.command("ls")
		p.note("a note")
		p.verdict(false, "this", "that")
		p.log("ztunnel", "a line\n")
		if got := strings.Contains(out.String(), "\x1b["); got != color {
			t.Errorf("color %v: got %q", color, out.String())
		}
		for _, want := range []string{"1. A title", "$ ls", "a note", "expected  this", "DIFFERS", "ztunnel | a line"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("no %q in %q", want, out.String())
			}
		}
	}
}
