package bookinfo

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// clientTimeout is how long a client waits for an answer: 10 s.
const clientTimeout = 10 * time.Second

// An Answer is what a client got.
type Answer struct {
	Proto  string
	Status int // 0: none
	Text   string
	Header http.Header
	Body   []byte
	Err    error
}

// Ask makes one request over a connection of its own, as the pod at ip. Fields are
// as curl's -H takes them: "name: value".
func Ask(ctx context.Context, ip, method, url string, fields ...string) Answer {
	t := Transport(ip)
	t.DisableKeepAlives = true
	defer t.CloseIdleConnections()
	return AskOver(ctx, t, method, url, fields...)
}

// AskOver makes one request over t.
func AskOver(ctx context.Context, t http.RoundTripper, method, url string, fields ...string) Answer {
	ctx, cancel := context.WithTimeout(ctx, clientTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return Answer{Err: err}
	}
	req.Header.Set("User-Agent", "curl/8")
	for _, f := range fields {
		name, value, ok := strings.Cut(f, ":")
		if !ok {
			return Answer{Err: fmt.Errorf("%q is no field: write \"name: value\"", f)}
		}
		req.Header.Add(name, strings.TrimSpace(value))
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return Answer{Err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return Answer{resp.Proto, resp.StatusCode, resp.Status, resp.Header, body, err}
}

// runClient makes one request and prints the answer as curl would: the status
// line and the fields with -i, and the content.
func runClient(ctx context.Context, set *flag.FlagSet, ip *string, args []string, stdout, stderr io.Writer) int {
	method := set.String("X", http.MethodGet, "the method of the request")
	head := set.Bool("i", false, "print the head of the response too")
	var fields []string
	set.Func("H", "a `field` of the request, \"name: value\"; may be given again", func(f string) error {
		fields = append(fields, f)
		return nil
	})
	switch err := set.Parse(args); {
	case errors.Is(err, flag.ErrHelp), err != nil:
		return 2
	case set.NArg() != 1:
		fmt.Fprintf(stderr, "%s: give one URL\n", set.Name())
		return 2
	}
	a := Ask(ctx, *ip, *method, set.Arg(0), fields...)
	if a.Status != 0 && *head {
		fmt.Fprintf(stdout, "%s %s\r\n", a.Proto, a.Text)
		_ = a.Header.Write(stdout)
		fmt.Fprint(stdout, "\r\n")
	}
	_, _ = stdout.Write(a.Body)
	if a.Err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", set.Name(), a.Err)
		return 1
	}
	return 0
}
