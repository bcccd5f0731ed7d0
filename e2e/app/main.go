// Command app is what the pods of the tests run. By the name it is called by, or else by its
// first argument, it is
//
//	echo      a server that says who asked, and what: HTTP at 8080, TCP at 9000
//	bookinfo  a service of bookinfo: bookinfo NAME VERSION
//	curl      a client with those of curl's flags that the tests use
//	sleep     nothing, until its end
//
// It knows nothing about the mesh.
package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/waystone-mesh/waystone/examples/bookinfo"
)

func main() {
	args := os.Args
	args[0] = filepath.Base(args[0])
	if args[0] == "app" && len(args) > 1 {
		args = args[1:]
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var err error
	switch {
	case args[0] == "echo":
		err = echo(ctx)
	case args[0] == "bookinfo" && len(args) == 3:
		name, _ := os.Hostname()
		err = serve(ctx, fmt.Sprintf(":%d", bookinfo.Port), bookinfo.Handler(args[1], args[2], name, http.DefaultTransport))
	case args[0] == "curl":
		err = curl(ctx, args[1:], os.Stdout)
	case args[0] == "sleep":
		<-ctx.Done()
	default:
		err = fmt.Errorf("nothing is called %q", args)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", args[0], err)
		os.Exit(1)
	}
}

// lameDuck is how long a program that is told to end still takes connections: of who
// has not heard of it. Those that a listener has and does not accept are lost, with a
// mesh and without one.
const lameDuck = 500 * time.Millisecond

// serve answers until ctx is done, and for lameDuck, and finishes what it has begun.
func serve(ctx context.Context, address string, h http.Handler) error {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ln) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	time.Sleep(lameDuck)
	limit, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return s.Shutdown(limit)
}
