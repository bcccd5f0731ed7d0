// Package programtest runs the programs in tests.
package programtest

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/waystone-mesh/waystone/internal/flags"
)

// Quiet are the flags of a program that listens nowhere but where it must.
func Quiet(t *testing.T) (log string, args []string) {
	t.Helper()
	dir := t.TempDir()
	manifests := filepath.Join(dir, "config")
	if err := os.Mkdir(manifests, 0o755); err != nil {
		t.Fatal(err)
	}
	log = filepath.Join(dir, "log")
	return log, []string{
		"--config", manifests, "--identity", "self:" + filepath.Join(dir, "ca"), "--log-output", log, "--log-format", "json",
		"--admin", "off", "--metrics", "off", "--readiness", "off", "--loops", "1",
	}
}

// UntilLogged ends a context when a log has a line.
func UntilLogged(t *testing.T, path, line string) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	go func() {
		for ctx.Err() == nil {
			if text, _ := os.ReadFile(path); strings.Contains(string(text), line) {
				cancel()
			}
			<-time.After(time.Millisecond)
		}
	}()
	return ctx
}

// WantLines wants lines in a log, in that order.
func WantLines(t *testing.T, path string, lines ...string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rest := string(text)
	for _, l := range lines {
		_, after, ok := strings.Cut(rest, l)
		if !ok {
			t.Fatalf("no %q, in this order, in the log:\n%s", l, text)
		}
		rest = after
	}
}

// Execute runs a command, and returns its error.
func Execute(t *testing.T, c *cobra.Command, args ...string) error {
	t.Helper()
	c.SetArgs(args)
	c.SetOut(io.Discard)
	c.SetErr(io.Discard)
	return c.ExecuteContext(context.Background())
}

// Lookup is os.LookupEnv of an environment that is given.
func Lookup(environment map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := environment[name]; return v, ok }
}

// WantHelp wants every flag of a command to have a usage that tells of its variables.
func WantHelp(t *testing.T, c *cobra.Command) {
	t.Helper()
	help := c.Flags().FlagUsages()
	c.Flags().VisitAll(func(f *pflag.Flag) {
		for _, name := range f.Annotations[flags.Environment] {
			if !strings.Contains(help, name) {
				t.Errorf("%s --%s: the help does not tell of %s", c.Name(), f.Name, name)
			}
		}
		if f.Usage == "" {
			t.Errorf("%s --%s: no usage", c.Name(), f.Name)
		}
	})
}
