package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A result is what the generator says; see the Result of internal/bench.
type result struct {
	Start         time.Time        `json:"start"`
	Seconds       float64          `json:"seconds"`
	Requests      int64            `json:"requests"`
	Rate          float64          `json:"rate"`
	Errors        map[string]int64 `json:"errors"`
	BytesSent     int64            `json:"bytesSent"`
	BytesReceived int64            `json:"bytesReceived"`
	Latency       struct {
		P50, P90, P99, P999 float64
	} `json:"latency"`
	CPUSeconds float64 `json:"cpuSeconds"`
}

func (r *result) end() time.Time {
	return r.Start.Add(time.Duration(r.Seconds * float64(time.Second)))
}

// load runs the generator against a running system with further flags.
func (e *env) load(ctx context.Context, r *running, flags ...string) (*result, error) {
	dir, err := e.directory("load")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "result.json")
	protocol := "http1"
	for i, f := range flags {
		if f == "--protocol" {
			protocol = flags[i+1]
		}
	}
	args := []string{
		"bench", "load", "--quiet", "--json", out, "--connect", r.connect, "--transport", r.transport, "--authority", r.to(protocol),
	}
	if r.transport == "hbone" {
		args = append(args, "--identity", e.certs.source(), "--as", "default/"+clientAccount, "--peer", r.peer)
	}
	cmd := exec.CommandContext(ctx, e.program("waystone"), append(args, flags...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = shutdown
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args[1:], " "), err, text)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		return nil, err
	}
	x := new(result)
	if err := json.Unmarshal(text, x); err != nil {
		return nil, fmt.Errorf("the generator's result: %w", err)
	}
	return x, nil
}

// A served is what a destination says when it ends.
type served struct {
	Requests int64            `json:"requests"`
	Open     int64            `json:"open"`
	Errors   map[string]int64 `json:"errors"`
}

// A backend is the destination, over HBONE and over plain TCP.
type backend struct {
	e        *env
	children []*child
	outs     []string
}

func (e *env) startBackend(ctx context.Context) (*backend, error) {
	b := &backend{e: e}
	for transport, listen := range map[string]string{"hbone": e.destination.HBONE.String(), "tcp": e.destination.Plain.String()} {
		said, out := filepath.Join(e.logs, "destination-"+transport+".log"), filepath.Join(e.dir, "destination-"+transport+".json")
		args := []string{"bench", "dest", "--transport", transport, "--listen", listen, "--json", out}
		if transport == "hbone" {
			args = append(args, "--identity", e.certs.source(), "--as", "default/"+serverAccount)
		}
		c, err := e.family.start("destination "+transport, said, e.program("waystone"), args...)
		if err != nil {
			return nil, err
		}
		b.children, b.outs = append(b.children, c), append(b.outs, out)
		if err := c.await(ctx, func(context.Context) error {
			if text, err := os.ReadFile(said); err != nil || !strings.Contains(string(text), "listening") {
				return errors.New("it does not listen yet")
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// end stops the destination and checks what it has seen: content that was not
// what had been sent, and tunnels that nobody closed.
func (b *backend) end() error {
	var errs []error
	for i, c := range b.children {
		if err := b.e.family.end(syscall.SIGINT, c); err != nil {
			errs = append(errs, err)
			continue
		}
		text, err := os.ReadFile(b.outs[i])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		var s served
		if err := json.Unmarshal(text, &s); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", b.outs[i], err))
			continue
		}
		if n := s.Errors["crc"]; n > 0 {
			errs = append(errs, fmt.Errorf("%s: %d requests came with other content than was sent", c.name, n))
		}
		if s.Open > 0 {
			errs = append(errs, fmt.Errorf("%s: %d tunnels were left open", c.name, s.Open))
		}
	}
	return errors.Join(errs...)
}

// number formats a flag's.
func number(n int) string { return strconv.Itoa(n) }
