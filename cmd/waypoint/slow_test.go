package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The slow readers: how many, and how much each has asked for.
const (
	slowReaders  = 100
	slowResponse = 1 << 30
)

// TestSlowReaders has a hundred clients take nothing of 1 GiB each while others
// work. What the program then holds is what its windows allow: 256 KiB a response.
func TestSlowReaders(t *testing.T) {
	r := newRig(t, moreServices)
	r.app()
	r.node()
	slow, quick := r.client("/ns/default/sa/sleep"), r.client("/ns/default/sa/sleep").http(netip.AddrPortFrom(r.vip, bookinfoPort).String(), http1)
	slow.transport.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}
	work := func() time.Duration {
		start := time.Now()
		for range 300 {
			do(t, quick, http.MethodGet, "/hello", nil)
		}
		return time.Since(start)
	}
	work() // once, so that connections are there
	alone, before := work(), anonymous(t, r.cmd.Process.Pid)

	c := slow.http(netip.AddrPortFrom(r.vip, bookinfoPort).String(), http1)
	c.Timeout = 0
	for range slowReaders {
		res, err := c.Get("http://productpage:9080/huge")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = res.Body.Close() })
	}
	beside, after := work(), anonymous(t, r.cmd.Process.Pid)
	t.Logf("300 requests took %.2f times as long beside them; RssAnon went from %d to %d MiB", beside.Seconds()/alone.Seconds(), before>>20, after>>20)
	if raced() {
		t.Log("the race detector's own memory is several times ours: not judged")
	} else if most := int64(64 << 20); after > most {
		t.Errorf("got %d MiB of RssAnon, want at most %d", after>>20, most>>20)
	}
}

// raced reports whether this was built with the race detector.
func raced() bool {
	info, _ := debug.ReadBuildInfo()
	return info != nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// huge answers with more than anybody takes.
func (a *app) huge(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("content-length", strconv.Itoa(slowResponse))
	block := make([]byte, 64<<10)
	for range slowResponse / len(block) {
		if _, err := w.Write(block); err != nil {
			return // the client has gone
		}
	}
}

// anonymous is the memory of a process that is not a file's, in bytes.
func anonymous(t *testing.T, pid int) int64 {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if kib, ok := strings.CutPrefix(s.Text(), "RssAnon:"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(kib), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatal(io.ErrUnexpectedEOF)
	return 0
}
