package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/waystone-mesh/waystone/internal/demo"
)

func demoCommand() *cobra.Command {
	o := demo.Options{Output: os.Stdout, Color: terminal(os.Stdout)}
	c := &cobra.Command{
		Use:   "demo",
		Short: "A mesh on this machine: Istio's ambient getting-started walk-through, step by step",
		Long: `Start a mesh on this machine, with neither cluster nor root, and walk through
Istio's ambient getting-started guide: plaintext, mTLS, an L4 policy, a waypoint,
an L7 policy, a traffic split, a live edit, and out again.

It fails when a step differs from what was expected, or when any request of the
load that runs all the while is lost.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if o.Program, err = os.Executable(); err != nil {
				return err
			}
			return demo.Run(c.Context(), o)
		},
	}
	c.Flags().BoolVar(&o.Keep, "keep", false, "leave the mesh running after the live edit, and say what to try, until Ctrl-C")
	return c
}

// terminal reports whether f is one, and wants colours (no-color.org).
func terminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
