package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/waystone-mesh/waystone/internal/dump"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run: func(c *cobra.Command, _ []string) {
			v := dump.Build()
			fmt.Fprintf(c.OutOrStdout(), "waystone %s (%s, %s)\n", v.Version, v.GitRevision, v.GoVersion)
		},
	}
}
