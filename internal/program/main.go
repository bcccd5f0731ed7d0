package program

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Main runs a command until it ends or SIGTERM or SIGINT has it end, and returns
// the exit status. A second signal kills, as it would have without us.
func Main(c *cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	context.AfterFunc(ctx, stop)
	if err := c.ExecuteContext(ctx); err != nil {
		return 1 // cobra has printed it
	}
	return 0
}
