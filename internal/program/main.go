package program

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Main runs a command until it ends or SIGTERM or SIGINT has it end, and returns
// the exit status: 1 if there is an error, unless that is an exit status itself. A
// second signal kills, as it would have without us.
func Main(c *cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	context.AfterFunc(ctx, stop)
	err := c.ExecuteContext(ctx)
	var answer interface{ ExitStatus() int }
	switch {
	case err == nil:
		return 0
	case errors.As(err, &answer):
		return answer.ExitStatus()
	}
	return 1 // cobra has printed it
}
