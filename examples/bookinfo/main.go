package bookinfo

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const usage = `usage: bookinfo POD [flags]

Services, each on port 9080 of its pod's address:
  productpage-v1  details-v1  reviews-v1  reviews-v2  reviews-v3  ratings-v1

The way in:
  istio-ingressgateway --config DIR [--gateway NAMESPACE/NAME]

Clients, which make one request and print the answer:
  sleep     [-i] [-X METHOD] URL
  notsleep  [-i] [-X METHOD] URL
`

// Main runs the program of the pod that args[0] names, until ctx is done, and
// returns its exit status.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 || IPs[args[0]] == "" || strings.HasSuffix(args[0], "-waypoint") {
		fmt.Fprint(stderr, usage)
		return 2
	}
	pod := args[0]
	set := flag.NewFlagSet("bookinfo "+pod, flag.ContinueOnError)
	set.SetOutput(stderr)
	ip := set.String("ip", IPs[pod], "the address of the pod")
	var err error
	switch app, version, _ := strings.Cut(pod, "-v"); {
	case pod == "sleep" || pod == "notsleep":
		return runClient(ctx, set, ip, args[1:], stdout, stderr)
	case pod == "istio-ingressgateway":
		err = runIngress(ctx, set, ip, args[1:], stderr)
	default:
		if err = set.Parse(args[1:]); err == nil {
			err = serve(ctx, net.JoinHostPort(*ip, strconv.Itoa(Port)), Handler(app, "v"+version, pod, Transport(*ip)))
		}
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 2
	case err != nil:
		fmt.Fprintf(stderr, "bookinfo %s: %v\n", pod, err)
		return 1
	}
	return 0
}

// Transport returns how the pod at ip makes requests: through its node tunnel,
// which is also who resolves names.
func Transport(ip string) *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyURL(socksURL(ip)),
		MaxIdleConnsPerHost: 32,
		IdleConnTimeout:     30 * time.Second,
		DisableCompression:  true,
	}
}

// linger is how long requests may go on after the end was asked for: 2 s.
const linger = 2 * time.Second

// serve answers at an address until ctx is done, and then finishes what it has
// begun, for a while.
func serve(ctx context.Context, address string, h http.Handler) error {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		limit, cancel := context.WithTimeout(context.Background(), linger)
		defer cancel()
		err := srv.Shutdown(limit)
		if errors.Is(err, context.DeadlineExceeded) {
			err = srv.Close()
		}
		stopped <- err
	})
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		stop()
		return err
	}
	return <-stopped
}
