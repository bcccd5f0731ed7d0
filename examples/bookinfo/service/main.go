// Command service is the program that the pods of bookinfo run; see package bookinfo.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/waystone-mesh/waystone/examples/bookinfo"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	os.Exit(bookinfo.Main(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
