// Command waystone is the command-line tool of the mesh; see its --help.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/waystone-mesh/waystone/internal/program"
	"github.com/waystone-mesh/waystone/internal/waypointcmd"
	"github.com/waystone-mesh/waystone/internal/ztunnelcmd"
)

func main() { os.Exit(program.Main(root())) }

// root has one file for each of its commands.
func root() *cobra.Command {
	c := &cobra.Command{
		Use:           "waystone",
		Short:         "An ambient mesh: its demo, its tools, its proxies",
		SilenceUsage:  true,
		SilenceErrors: false,
	}
	c.CompletionOptions.HiddenDefaultCmd = true
	c.AddCommand(demoCommand(), authzCommand(), benchCommand(), versionCommand(), bookinfoCommand(), hidden(waypointcmd.Command()), hidden(ztunnelcmd.Command()))
	return c
}

// hidden keeps a command out of the help: the proxies are programs of their own,
// and are commands here only so that the demo needs no file but this one.
func hidden(c *cobra.Command) *cobra.Command {
	c.Hidden = true
	return c
}
