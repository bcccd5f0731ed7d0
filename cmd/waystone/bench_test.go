package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waystone-mesh/waystone/internal/bench"
	"github.com/waystone-mesh/waystone/internal/program/programtest"
)

func TestBadFlagsOfBenchAreNamedWithValueAndReason(t *testing.T) {
	for _, row := range []struct{ args, want string }{
		{"load", "flag --identity: is required for --transport hbone: self:DIR"},
		{"load", "flag --peer: is required"},
		{"load --peer any --identity self:/nowhere", `flag --peer: "any": is not of the form namespace/account`},
		{"load --conns 0", `flag --conns: "0": is not a number from 1`},
		{"load --conns 1001 --tunnels 2000", "flag --conns: 1001 is not 1 to 1000"},
		{"load --tunnels many", `flag --tunnels: "many": is not a number from 1`},
		{"load --tunnels 10001", "flag --tunnels: 10001 is not 1 to 10000"},
		{"load --transport quic", `flag --transport: "quic" is none of hbone, tcp, socks5`},
		{"load --transport=", `flag --transport: "": is empty`},
		{"load --protocol http3", `flag --protocol: "http3" is none of http1,`},
		{"load --arrival bursty", `flag --arrival: "bursty" is none of uniform, poisson`},
		{"load --concurrency 2", "flag --concurrency: a tunnel of --protocol http1 has one exchange at a time"},
		{"load --connect here", `flag --connect: "here": is not an IP address and a port`},
		{"load --size 1MB", `flag --size: "1MB": is not a number of bytes: write 1024 or 64KiB`},
		{"load --size -1", `flag --size: "-1": is not a number of bytes`},
		{"load --size 9000000000GiB", `flag --size: "9000000000GiB": is not a number of bytes`},
		{"load --send 2GiB", "flag --send: 2147483648 is not 0 to "},
		{"load --rate fast", `flag --rate: "fast": is not a number`},
		{"load --rate NaN", "flag --rate: NaN is not 0 to "},
		{"load --rate -1", "flag --rate: -1 is not 0 to "},
		{"load --duration 0s", `flag --duration: "0s": is no time at all`},
		{"load --duration forever", `flag --duration: "forever": is not a duration`},
		{"load --header colon", `flag --header: "colon" is not of the form "name: value"`},
		{"load --json /nowhere/x --transport tcp", "flag --json: open /nowhere/x: no such file or directory"},
		{"load now", `unknown command "now"`},
		{"dest", "flag --identity: is required for --transport hbone: self:DIR"},
		{"dest --transport socks5", `flag --transport: "socks5" is none of hbone, tcp`},
		{"dest --listen there", `flag --listen: "there" is not an IP address and a port`},
		{"dest --status 0", `flag --status: "0": is not a number from 1`},
		{"dest --status 700", "flag --status: 700 is not 200 to 599"},
		{"dest --delay -1s", `flag --delay: "-1s": is not a duration`},
		{"dest --loops 65", "flag --loops: 65 is not 1 to 64"},
		{"dest --json /nowhere/x --transport tcp", "flag --json: open /nowhere/x: no such file or directory"},
	} {
		err := programtest.Execute(t, benchCommand(), strings.Fields(row.args)...)
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %s", row.args, err, row.want)
		}
	}
}

func TestBytesAreRead(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "1024": 1024, "64KiB": 64 << 10, "1MiB": 1 << 20, "1GiB": 1 << 30} {
		if got, err := parseBytes(text); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", text, got, err, want)
		}
	}
}

// TestBenchLoadAndDest runs the two commands against one another.
func TestBenchLoadAndDest(t *testing.T) {
	file := filepath.Join(t.TempDir(), "served.json")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	said, say := io.Pipe()
	var told bytes.Buffer
	done := make(chan error, 1)
	go func() {
		c := benchCommand()
		c.SetArgs([]string{"dest", "--transport", "tcp", "--listen", "127.0.0.1:0", "--json", file})
		c.SetOut(&told)
		c.SetErr(say)
		done <- c.ExecuteContext(ctx)
	}()
	line, err := bufio.NewReader(said).ReadString('\n')
	address, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		t.Fatalf("got %q, %v", line, err)
	}

	load := func(ctx context.Context, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		c := benchCommand()
		c.SetArgs(append([]string{"load", "--transport", "tcp", "--connect", address, "--warmup", "0s", "--size", "1KiB"}, args...))
		c.SetOut(&out)
		c.SetErr(io.Discard)
		if err := c.ExecuteContext(ctx); err != nil {
			t.Errorf("%v: %v", args, err)
		}
		return out.String()
	}
	var r bench.Result
	if err := json.Unmarshal([]byte(load(ctx, "--requests", "20", "--json", "-", "--header", "a: b")), &r); err != nil {
		t.Errorf("standard output is not JSON alone: %v", err)
	}
	if r.Requests != 20 || r.BytesReceived != 20<<10 || len(r.Errors) != 0 || r.Load.Headers[0] != "a: b" {
		t.Errorf("got %+v", r)
	}
	if out := load(ctx, "--requests", "20", "--tunnels", "2"); !strings.HasPrefix(out, "20 requests in ") {
		t.Errorf("got %s", out)
	}

	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	var s bench.Served
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &s); err != nil || s.Requests != 40 || s.Open != 0 || !strings.HasPrefix(told.String(), "40 requests") {
		t.Errorf("got %+v, %v, %s", s, err, told.String())
	}
}

// TestBenchEndsEarly when it is interrupted, and says what it has found.
func TestBenchEndsEarly(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, interrupt := context.WithCancel(t.Context())
	go func() {
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		_, _ = nc.Read(make([]byte, 1))
		interrupt()
		_, _ = io.Copy(io.Discard, nc)
	}()
	var out bytes.Buffer
	c := benchCommand()
	c.SetArgs([]string{"load", "--transport", "tcp", "--connect", ln.Addr().String(), "--duration", "1h", "--warmup", "0s", "--tunnels", "1"})
	c.SetOut(&out)
	if err := c.ExecuteContext(ctx); err != nil || !strings.HasPrefix(out.String(), "0 requests in ") {
		t.Errorf("got %v, %s", err, out.String())
	}
}
