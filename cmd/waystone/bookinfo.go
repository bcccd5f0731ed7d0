package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/waystone-mesh/waystone/examples/bookinfo"
)

// bookinfoCommand runs what the pods of the demo run.
func bookinfoCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "bookinfo POD [flags]",
		Short:              "Run the program of one of the demo's pods: sleep, notsleep, productpage-v1 and so on",
		Hidden:             true,
		DisableFlagParsing: true, // the flags are the pod's
		SilenceErrors:      true, // it has said what is wrong
		RunE: func(c *cobra.Command, args []string) error {
			if status := bookinfo.Main(c.Context(), args, c.OutOrStdout(), c.ErrOrStderr()); status != 0 {
				return fmt.Errorf("bookinfo: exit status %d", status)
			}
			return nil
		},
	}
}
