// Command ztunnel is the node tunnel of the mesh; see its --help. What it runs is the list
// in internal/program.
package main

import (
	"os"

	"github.com/waystone-mesh/waystone/internal/program"
)

func main() { os.Exit(program.Main(program.Ztunnel())) }
