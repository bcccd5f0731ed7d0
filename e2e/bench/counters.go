package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// client asks administration ports. It keeps no connection, which would count as
// somebody's work.
var client = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func answer(req *http.Request) ([]byte, error) {
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", req.URL, resp.Status)
	}
	return text, err
}

// scrape returns a function that reads metrics in Prometheus' text format.
func scrape(urls ...string) func() (map[string]float64, error) {
	return func() (map[string]float64, error) {
		all := map[string]float64{}
		for _, url := range urls {
			text, err := fetch(context.Background(), url)
			if err != nil {
				return nil, err
			}
			if err := addMetrics(all, string(text)); err != nil {
				return nil, fmt.Errorf("%s: %w", url, err)
			}
		}
		return all, nil
	}
}

// addMetrics adds what text says to all. The series of a family are added up under
// its name; the buckets of histograms are left out.
func addMetrics(all map[string]float64, text string) error {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name := line[:strings.IndexAny(line+" ", "{ ")]
		rest := line[len(name):]
		if end := strings.LastIndexByte(rest, '}'); end >= 0 {
			rest = rest[end+1:]
		}
		value, _, _ := strings.Cut(strings.TrimSpace(rest), " ") // there may be a time after it
		x, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return fmt.Errorf("%q is not a metric", line)
		}
		if !strings.HasSuffix(name, "_bucket") {
			all[name] += x
		}
	}
	return nil
}
