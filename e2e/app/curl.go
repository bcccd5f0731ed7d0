package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// curl makes one request and prints the answer's content, or with -o and -w what else is
// asked for.
func curl(ctx context.Context, args []string, out io.Writer) error {
	set := flag.NewFlagSet("curl", flag.ContinueOnError)
	set.Bool("s", false, "silent, which it always is")
	set.Bool("sS", false, "silent but for errors, which it always is")
	method := set.String("X", http.MethodGet, "method")
	output := set.String("o", "-", "file for the content")
	format := set.String("w", "", "what to print then; %{http_code} is the status")
	limit := set.Float64("m", 10, "seconds that it may take")
	fields := http.Header{}
	set.Func("H", `field, "name: value"`, func(s string) error {
		name, value, ok := strings.Cut(s, ":")
		if !ok {
			return errors.New("no colon")
		}
		fields.Add(strings.TrimSpace(name), strings.TrimSpace(value))
		return nil
	})
	if err := set.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(*limit*float64(time.Second)))
	defer cancel()
	url := set.Arg(0)
	if !strings.Contains(url, "://") {
		url = "http://" + url
	}
	r, err := http.NewRequestWithContext(ctx, *method, url, nil)
	if err != nil {
		return err
	}
	r.Header = fields
	if host := fields.Get("Host"); host != "" {
		r.Host = host
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	to := out
	if *output != "-" {
		f, err := os.Create(*output)
		if err != nil {
			return err
		}
		defer f.Close()
		to = f
	}
	if _, err := io.Copy(to, resp.Body); err != nil {
		return err
	}
	if *format != "" {
		fmt.Fprint(out, strings.NewReplacer("%{http_code}", fmt.Sprint(resp.StatusCode), `\n`, "\n").Replace(*format))
	}
	return nil
}
