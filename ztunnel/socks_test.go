package ztunnel

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/hbone"
)

const (
	greetingText = "\x05\x01\x00"
	noAuth       = "\x05\x00"
)

// socksScripts are what a client says in full, and what comes of it.
var socksScripts = []struct{ name, says, reply, want string }{
	{"IPv4", greetingText + "\x05\x01\x00\x01\x0a\x00\x00\x07\x00\x50", noAuth, "10.0.0.7:80"},
	{"IPv6", greetingText + "\x05\x01\x00\x04\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x01\x01\xbb", noAuth, "[2001:db8::1]:443"},
	{"IPv4 in IPv6", greetingText + "\x05\x01\x00\x04" + strings.Repeat("\x00", 10) + "\xff\xff\x0a\x00\x00\x07\x00\x50", noAuth, "10.0.0.7:80"},
	{"name", greetingText + "\x05\x01\x00\x03\x05Items\x00\x50", noAuth, "items:80"},
	{"address as a name", greetingText + "\x05\x01\x00\x03\x0810.0.0.7\x00\x50", noAuth, "10.0.0.7:80"},
	{"IPv6 address as a name", greetingText + "\x05\x01\x00\x03\x0b2001:db8::1\x00\x50", noAuth, "[2001:db8::1]:80"},
	{"with what follows", greetingText + "\x05\x01\x00\x03\x01a\x00\x50GET / HTTP/1.1\r\n", noAuth, "a:80 GET / HTTP/1.1\r\n"},
	{"several methods", "\x05\x03\x02\x00\x01" + "\x05\x01\x00\x03\x01a\x00\x50", noAuth, "a:80"},
	{"longest name", greetingText + "\x05\x01\x00\x03\xff" + strings.Repeat(strings.Repeat("a", 50)+".", 5) + "\x00\x50", noAuth, "socks: reply 8"},
	{"password only", "\x05\x01\x02", "\x05\xff", "socks: reply 255"},
	{"no methods", "\x05\x00", "\x05\xff", "socks: reply 255"},
	{"SOCKS4", "\x04\x01\x00\x50\x0a\x00\x00\x07\x00", "", errNotSOCKS5.Error()},
	{"HTTP", "CONNECT items:80 HTTP/1.1\r\n\r\n", "", errNotSOCKS5.Error()},
	{"second version", greetingText + "\x04\x01\x00\x01\x0a\x00\x00\x07\x00\x50", noAuth, errNotSOCKS5.Error()},
	{"BIND", greetingText + "\x05\x02\x00\x01\x0a\x00\x00\x07\x00\x50", noAuth, "socks: reply 7"},
	{"UDP ASSOCIATE", greetingText + "\x05\x03\x00\x01\x0a\x00\x00\x07\x00\x50", noAuth, "socks: reply 7"},
	{"address type", greetingText + "\x05\x01\x00\x02\x0a\x00\x00\x07\x00\x50", noAuth, "socks: reply 8"},
	{"empty name", greetingText + "\x05\x01\x00\x03\x00\x00\x50", noAuth, "socks: reply 8"},
	{"bad name", greetingText + "\x05\x01\x00\x03\x04a b/\x00\x50", noAuth, "socks: reply 8"},
	{"name with a port", greetingText + "\x05\x01\x00\x03\x03a:1\x00\x50", noAuth, "socks: reply 8"},
	{"zone", greetingText + "\x05\x01\x00\x03\x09fe80::1%a\x00\x50", noAuth, "socks: reply 8"},
	{"port 0", greetingText + "\x05\x01\x00\x01\x0a\x00\x00\x07\x00\x00", noAuth, "socks: reply 1"},
	{"unfinished greeting", "\x05\x02\x00", "", "more"},
	{"unfinished request", greetingText + "\x05\x01\x00\x03\x05item", noAuth, "more"},
}

// play feeds s with pieces, and stops where the proxy would.
func play(s *socks, pieces ...string) (reply, outcome string) {
	var out []byte
	for i, p := range pieces {
		got, target, rest, done, err := s.read([]byte(p), nil)
		out = append(out, got...)
		var known *socksError
		switch {
		case errors.As(err, &known):
			return string(out), fmt.Sprintf("socks: reply %d", known.reply)
		case err != nil:
			return string(out), err.Error()
		case done:
			return string(out), strings.TrimSuffix(target.String()+" "+string(rest)+strings.Join(pieces[i+1:], ""), " ")
		}
	}
	return string(out), "more"
}

func TestSOCKS(t *testing.T) {
	for _, row := range socksScripts {
		reply, got := play(new(socks), row.says)
		if reply != row.reply || got != row.want {
			t.Errorf("%s: got %q and %s, want %q and %s", row.name, reply, got, row.reply, row.want)
		}
		for i := range row.says {
			reply, got := play(new(socks), row.says[:i], row.says[i:])
			if reply != row.reply || got != row.want {
				t.Errorf("%s, split at %d: got %q and %s, want %q and %s", row.name, i, reply, got, row.reply, row.want)
			}
		}
		if reply, got := play(new(socks), strings.Split(row.says, "")...); reply != row.reply || got != row.want {
			t.Errorf("%s, byte by byte: got %q and %s, want %q and %s", row.name, reply, got, row.reply, row.want)
		}
	}
}

func TestSOCKSReplies(t *testing.T) {
	for _, row := range []struct {
		err  error
		want byte
	}{
		{nil, socksOK},
		{&socksError{socksBadCommand, ""}, socksBadCommand},
		{fmt.Errorf("%w: x", errSelfCall), socksNotAllowed},
		{&hbone.StatusError{Status: 401}, socksNotAllowed},
		{&hbone.StatusError{Status: 503}, socksRefused},
		{fmt.Errorf("%w: x", errOtherNetwork), socksNoNetwork},
		{fmt.Errorf("%w: x", errUnknownName), socksUnreachable},
		{&hbone.DialError{Err: timeout{}}, socksUnreachable},
		{&hbone.DialError{Err: errors.New("x")}, socksRefused},
		{errNoEndpoint, socksRefused},
	} {
		if got := replyFor(row.err); got != row.want {
			t.Errorf("%v: got %d, want %d", row.err, got, row.want)
		}
	}
	if got, want := string(appendReply(nil, socksRefused)), "\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

type timeout struct{}

func (timeout) Error() string { return "timeout" }
func (timeout) Timeout() bool { return true }

func FuzzSOCKS(f *testing.F) {
	for _, row := range socksScripts {
		f.Add([]byte(row.says), 3)
	}
	f.Fuzz(func(t *testing.T, says []byte, cut int) {
		whole, pieces := new(socks), new(socks)
		reply, got := play(whole, string(says))
		cut = max(0, min(cut, len(says)))
		if r, g := play(pieces, string(says[:cut]), string(says[cut:])); r != reply || g != got {
			t.Errorf("split at %d: got %q and %s, whole %q and %s", cut, r, g, reply, got)
		}
		if got == "more" && len(whole.buf) > 519 {
			t.Errorf("%d bytes wait", len(whole.buf))
		}
	})
}
