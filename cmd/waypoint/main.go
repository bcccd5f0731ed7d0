// Command waypoint is the L7 proxy of the mesh; see its --help. What it runs is the list
// in internal/waypointcmd.
package main

import (
	"os"

	"github.com/waystone-mesh/waystone/internal/program"
	"github.com/waystone-mesh/waystone/internal/waypointcmd"
)

func main() { os.Exit(program.Main(waypointcmd.Command())) }
