// Command ztunnel is the node tunnel of the mesh; see its --help. What it runs is the list
// in internal/ztunnelcmd.
package main

import (
	"os"

	"github.com/waystone-mesh/waystone/internal/program"
	"github.com/waystone-mesh/waystone/internal/ztunnelcmd"
)

func main() { os.Exit(program.Main(ztunnelcmd.Command())) }
