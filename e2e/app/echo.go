package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// echo serves until ctx is done. With ?wait=DURATION, an answer takes that long; with
// ?status=NUMBER, it has that status; with ?size=BYTES, so much more content.
func echo(ctx context.Context) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", ":9000")
	if err != nil {
		return err
	}
	go lines(ln, host)
	return serve(ctx, ":8080", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r, host) }))
}

// answer says what came, one "name: value" a line.
func answer(w http.ResponseWriter, r *http.Request, host string) {
	q := r.URL.Query()
	if wait, err := time.ParseDuration(q.Get("wait")); err == nil {
		time.Sleep(wait)
	}
	if status, err := strconv.Atoi(q.Get("status")); err == nil {
		w.WriteHeader(status)
	}
	source, _, _ := net.SplitHostPort(r.RemoteAddr)
	fmt.Fprintf(w, "pod: %s\nsource: %s\nrequest: %s %s\nhost: %s\n", host, source, r.Method, r.URL.Path, r.Host)
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		fmt.Fprintf(w, "%s: %s\n", name, strings.Join(r.Header[name], ", "))
	}
	if size, err := strconv.Atoi(q.Get("size")); err == nil {
		_, _ = io.CopyN(w, zeroes{}, int64(size))
	}
	_, _ = io.Copy(io.Discard, r.Body)
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

// lines says who asked, before it is asked anything, and then every line again.
func lines(ln net.Listener, host string) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			source, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
			fmt.Fprintf(conn, "pod: %s source: %s\n", host, source)
			for in := bufio.NewScanner(conn); in.Scan(); {
				if _, err := fmt.Fprintln(conn, in.Text()); err != nil {
					return
				}
			}
		}()
	}
}
