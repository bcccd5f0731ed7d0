package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waystone-mesh/waystone/internal/policy"
)

// replayFlags are the flags of authz replay.
type replayFlags struct {
	meshFlags
	base    []string
	by      []string
	rows    int
	workers int
	output  string
	quiet   bool
	check   bool
}

func replayCommand() *cobra.Command {
	var f replayFlags
	c := &cobra.Command{
		Use:   "replay ACCESS.log… -f PATH [flags]",
		Short: "Say what would change for the requests of an access log",
		Long: `Say what would have become of the requests of an access log if other policies had
been in force: who would now be denied, or allowed.

The log is a waypoint's, ours or Istio's, in JSON, a line for each request; it may
be compressed by gzip, and - is standard input. -f are the policies in question,
with the mesh that they are for. What was decided then is in the log; with --base,
what those policies say. Objects that are no policies may be in either.

What the log does not hold is never guessed: a verdict that depends on a header, a
claim or an identity that is not logged is undetermined, and what was wanting is
said. With source_principal and request_principal among the log's keys
(--access-log-keys of our waypoint) most verdicts are determined.

Numbers, identifiers and the like in paths are shown as {*}.`,
		Example: `  waystone authz replay examples/policies/test/access.log -f examples/policies -f examples/policies/candidate`,
	}
	f.define(c)
	set := c.Flags()
	set.StringArrayVar(&f.base, "base", nil, "a file or directory of the policies that were in force; may be given again")
	set.StringSliceVar(&f.by, "by", []string{"principal", "path", "policy"}, "what changes are counted by: "+strings.Join(policy.Columns, ", "))
	set.IntVar(&f.rows, "rows", 20, "how many rows are shown of each kind of change; 0 is all")
	set.IntVar(&f.workers, "workers", 0, "cores to use; 0 is all")
	set.BoolVar(&f.quiet, "quiet", false, "no progress")
	set.BoolVar(&f.check, "check", false, "exit with status 1 if anything would change")
	set.StringVarP(&f.output, "output", "o", "table", "table or json")
	return answering(c, cobra.MinimumNArgs(1), f.run)
}

func (f *replayFlags) run(c *cobra.Command, names []string) error {
	if err := oneOf("output", f.output, "table", "json"); err != nil {
		return err
	}
	o, files, err := f.read()
	if err != nil {
		return err
	}
	r := policy.ReplayOptions{By: f.by, Workers: f.workers}
	if f.base != nil {
		base, err := policy.Read(f.base...)
		if err != nil {
			return fmt.Errorf("flag --base: %w", err)
		}
		r.Base = policy.New(o, base.With(files))
		files = files.With(base)
	}
	r.New = policy.New(o, files)
	var logs []policy.Log
	for _, name := range names {
		in := c.InOrStdin()
		if name != "-" {
			file, err := os.Open(name)
			if err != nil {
				return err
			}
			defer file.Close()
			in = file
		}
		logs = append(logs, policy.Log{Name: name, Reader: in})
	}
	p := policy.NewProgress(c.ErrOrStderr(), !f.quiet && terminal(os.Stderr), time.Now())
	r.Progress = p.Tell
	out, err := policy.Replay(c.Context(), r, logs...)
	p.End()
	if out == nil {
		return err
	}
	if f.output == "json" {
		err = errors.Join(err, writeJSON(c, out))
	} else {
		_, werr := fmt.Fprint(c.OutOrStdout(), out.Table(f.rows))
		err = errors.Join(err, werr)
	}
	if err == nil && f.check && out.Changed() {
		return no
	}
	return err
}
