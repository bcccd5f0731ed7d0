package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
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

// ownCounters returns a function that reads the metrics of our own programs, which
// answer at some addresses, and beside them what /loops says of the loops, as if it
// were metrics: waystone_loop_reads_total and so on.
func ownCounters(ips ...netip.Addr) func() (map[string]float64, error) {
	return func() (map[string]float64, error) {
		var urls []string
		for _, ip := range ips {
			urls = append(urls, metricsAt(ip))
		}
		// The loops first: what a scrape allocates is the scrape's.
		loops := map[string]float64{}
		for _, ip := range ips {
			if err := addLoops(loops, "http://"+netip.AddrPortFrom(ip, portAdmin).String()+"/loops"); err != nil {
				return nil, err
			}
		}
		all, err := scrape(urls...)()
		if err != nil {
			return nil, err
		}
		maps.Copy(all, loops)
		return all, nil
	}
}

// addLoops adds what one program's loops have done to all.
func addLoops(all map[string]float64, url string) error {
	text, err := fetch(context.Background(), url)
	if err != nil {
		return err
	}
	var loops []struct{ Reads, Writes, Batches, Events, Posted float64 }
	if err := json.Unmarshal(text, &loops); err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	for _, l := range loops {
		for name, n := range map[string]float64{"reads": l.Reads, "writes": l.Writes, "batches": l.Batches, "events": l.Events, "posted": l.Posted} {
			all["waystone_loop_"+name+"_total"] += n
		}
	}
	return nil
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
