package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waystone-mesh/waystone/internal/bench"
	"github.com/waystone-mesh/waystone/internal/flags"
)

// benchCommand returns the commands that load a mesh and answer the load.
func benchCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "bench",
		Short: "Load a waypoint, a node tunnel or a destination, and measure it",
		Long: `Load a waypoint, a node tunnel or a destination, and measure it: "load" asks and
"dest" answers. Content is checked by its CRC-32C at both ends.`,
	}
	c.AddCommand(benchLoad(), benchDest())
	return c
}

func benchLoad() *cobra.Command {
	var (
		l     bench.Load
		quiet bool
		out   string
	)
	c := &cobra.Command{
		Use:   "load --identity SOURCE --peer NS/SA [flags]",
		Short: "Ask, and say how long the answers took",
		Long: `Ask, and say how long the answers took: over HBONE, plain TCP or a node tunnel's
SOCKS5; HTTP/1.1, gRPC, WebSocket or raw bytes.

Without --rate every tunnel asks again as soon as it is answered (a closed loop):
that says what there is room for. With --rate requests come when they are due,
whatever the answers do (an open loop), and their latency counts from then: that
says what users would feel.`,
	}
	set := c.Flags()
	flags.Define(set, &l.Connect, "connect", "ADDRESS", "127.0.0.1:15008", parseWord, "where the proxy listens, or the destination itself")
	flags.Define(set, &l.Transport, "transport", "NAME", "hbone", parseWord, "hbone, tcp or socks5")
	flags.Define(set, &l.Authority, "authority", "ADDRESS", "10.96.0.10:80", parseWord, "what to ask the proxy for")
	flags.Define(set, &l.Identity, "identity", "SOURCE", "", flags.Text, "where certificates come from, as the proxies' flag")
	flags.Define(set, &l.As, "as", "NS/SA", "default/client", parseWord, "who we are")
	flags.Define(set, &l.TrustDomain, "trust-domain", "NAME", "cluster.local", parseWord, "our trust domain")
	flags.Define(set, &l.Peers, "peer", "NS/SA[,…]", "", flags.List, "whose certificate the proxy may have")
	flags.Define(set, &l.Protocol, "protocol", "NAME", "http1", parseWord, "http1, grpc, grpc-stream, websocket, raw, or connect: each request is a connection of its own")
	flags.Define(set, &l.Conns, "conns", "NUMBER", "4", parsePositive, "HBONE connections, 1 to 1000")
	flags.Define(set, &l.Tunnels, "tunnels", "NUMBER", "64", parsePositive, "tunnels on them in all, 1 to 10000")
	flags.Define(set, &l.Concurrency, "concurrency", "NUMBER", "1", parsePositive, "exchanges at a time in each tunnel: gRPC's")
	flags.Define(set, &l.Loops, "loops", "NUMBER", "1", parsePositive, "cores that the generator may use")
	flags.Define(set, &l.Rate, "rate", "NUMBER", "0", parseRate, "requests per second in all; 0 is a closed loop")
	flags.Define(set, &l.Arrival, "arrival", "NAME", "uniform", parseWord, "how they are spread: uniform or poisson")
	flags.Define(set, &l.Method, "method", "NAME", "", flags.Text, "of the requests (default GET, and POST with --send)")
	flags.Define(set, &l.Host, "host", "NAME", "items", parseWord, "the Host field")
	flags.Define(set, &l.Path, "path", "PATH", "/", parseWord, "the target")
	set.StringArrayVar(&l.Headers, "header", nil, `a further field, "name: value"; may be given again`)
	flags.Define(set, &l.Size, "size", "BYTES", "0", parseBytes, "content of a response: 64KiB, 1MiB")
	flags.Define(set, &l.Send, "send", "BYTES", "0", parseBytes, "content of a request")
	flags.Define(set, &l.Duration, "duration", "DURATION", "10s", flags.Span, "of the measured part")
	flags.Define(set, &l.Warmup, "warmup", "DURATION", "1s", flags.Duration, "load before that")
	flags.Define(set, &l.Requests, "requests", "NUMBER", "0", parseCount, "end after so many; 0 is never")
	flags.Define(set, &l.ReadRate, "read-rate", "BYTES", "0", parseBytes, "bytes per second that are read from each tunnel; 0 is all")
	flags.Define(set, &l.Hold, "hold", "bool", "false", flags.Bool, "ask once on each tunnel, and leave them idle")
	flags.Define(set, &out, "json", "FILE", "", flags.Text, "write the result there; - is standard output, and nothing else then is")
	flags.Define(set, &quiet, "quiet", "bool", "false", flags.Bool, "no progress")
	return flags.Command(c, func(c *cobra.Command) error {
		if err := l.Check(); err != nil {
			return err
		}
		report, err := openReport(out, c.OutOrStdout())
		if err != nil {
			return err
		}
		screen := bench.NewScreen(c.ErrOrStderr(), !quiet && isTerminal(os.Stderr))
		result, err := bench.Run(c.Context(), l, screen.Progress)
		screen.Clear()
		if result == nil {
			return errors.Join(err, report.close())
		}
		if c.Context().Err() != nil {
			err = nil // ended early, as was asked: there is a result all the same
		}
		return errors.Join(err, report.write(result.String(), result.JSON()))
	})
}

func benchDest() *cobra.Command {
	var (
		d   bench.Destination
		out string
	)
	c := &cobra.Command{
		Use:   "dest --identity SOURCE [flags]",
		Short: "Answer the load, until interrupted",
		Long: `Answer the load, until interrupted; then say what was served. HTTP/1.1, HTTP/2,
gRPC (grpc.testing.BenchmarkService), WebSocket and raw bytes are told apart by
their first bytes. The request field x-bench-size says how long an answer is to be.`,
	}
	set := c.Flags()
	flags.Define(set, &d.Listen, "listen", "ADDRESS", "127.0.0.1:15008", parseWord, "where to listen")
	flags.Define(set, &d.Transport, "transport", "NAME", "hbone", parseWord, "hbone or tcp")
	flags.Define(set, &d.Identity, "identity", "SOURCE", "", flags.Text, "where certificates come from, as the proxies' flag")
	flags.Define(set, &d.As, "as", "NS/SA", "default/items", parseWord, "who we are")
	flags.Define(set, &d.TrustDomain, "trust-domain", "NAME", "cluster.local", parseWord, "our trust domain")
	flags.Define(set, &d.Loops, "loops", "NUMBER", "1", parsePositive, "cores that it may use")
	flags.Define(set, &d.Status, "status", "NUMBER", "200", parsePositive, "of the answers; another than 200 refuses gRPC calls and WebSockets")
	flags.Define(set, &d.Delay, "delay", "DURATION", "0s", flags.Duration, "before each answer")
	flags.Define(set, &out, "json", "FILE", "", flags.Text, "write what was served there; - is standard output, and nothing else then is")
	return flags.Command(c, func(c *cobra.Command) error {
		if err := d.Check(); err != nil {
			return err
		}
		report, err := openReport(out, c.OutOrStdout())
		if err != nil {
			return err
		}
		served, err := d.Serve(c.Context(), func(a net.Addr) { fmt.Fprintf(c.ErrOrStderr(), "listening on %s\n", a) })
		if served == nil {
			return errors.Join(err, report.close())
		}
		return errors.Join(err, report.write(served.String(), served.JSON()))
	})
}

// A report is where the outcome of a run goes: text to out, JSON to a file, or
// JSON alone to out.
type report struct {
	out  io.Writer
	only bool     // JSON alone
	file *os.File // or nil
}

// openReport creates the file that is named, if any: before the run, which may
// be long.
func openReport(name string, out io.Writer) (r report, err error) {
	r = report{out: out, only: name == "-"}
	if name != "" && !r.only {
		if r.file, err = os.Create(name); err != nil {
			err = fmt.Errorf("flag --json: %w", err)
		}
	}
	return r, err
}

// write writes an outcome and closes the report.
func (r report) write(text string, json []byte) error {
	if r.only {
		_, err := r.out.Write(json)
		return err
	}
	_, err := io.WriteString(r.out, text)
	if r.file == nil {
		return err
	}
	_, werr := r.file.Write(json)
	return errors.Join(err, werr, r.close())
}

func (r report) close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}

// isTerminal reports whether somebody looks at f.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func parseRate(s string) (float64, error) {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, errors.New("is not a number")
	}
	return n, nil
}

// parsePositive reads a number of things; 0 is none, and not their default.
func parsePositive(s string) (int, error) {
	n, err := parseCount(s)
	if err != nil || n < 1 || n > 1<<31-1 {
		return 0, errors.New("is not a number from 1")
	}
	return int(n), nil
}

func parseCount(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, errors.New("is not a number")
	}
	return n, nil
}

// parseBytes reads a number of bytes, with KiB, MiB or GiB after it or not.
func parseBytes(s string) (int64, error) {
	shift := 0
	number := s
	for unit, by := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30} {
		if n, ok := strings.CutSuffix(s, unit); ok {
			number, shift = n, by
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > 1<<62>>shift {
		return 0, errors.New("is not a number of bytes: write 1024 or 64KiB")
	}
	return n << shift, nil
}

func parseWord(s string) (string, error) {
	if s == "" {
		return "", errors.New("is empty")
	}
	return s, nil
}
