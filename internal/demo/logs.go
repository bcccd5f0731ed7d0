package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
)

// A logFile is what a child writes.
type logFile struct {
	name string // as it is printed
	path string
}

// end returns where the log ends now: lines after that are news.
func (l logFile) end() int64 {
	info, err := os.Stat(l.path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// lines returns the whole lines after an offset.
func (l logFile) lines(after int64) []string {
	text, err := os.ReadFile(l.path)
	if err != nil || int64(len(text)) < after {
		return nil
	}
	text = text[after:]
	i := bytes.LastIndexByte(text, '\n')
	if i < 0 {
		return nil
	}
	return strings.Split(string(text[:i]), "\n")
}

// patience is how long the log may take to tell what has happened: 2 s, of which
// a machine that has something else to do needs a part.
const patience = 2 * time.Second

// await returns the first line after an offset that a pattern describes.
func (l logFile) await(ctx context.Context, after int64, p pattern) (string, error) {
	var found string
	err := eventually(ctx, patience, func() bool {
		for _, line := range l.lines(after) {
			if p.matches(line) {
				found = line
				return true
			}
		}
		return false
	})
	if err != nil {
		return "", fmt.Errorf("no line of %s says %v", l.name, p)
	}
	return found, nil
}

// A pattern is texts that a line contains, all of them.
type pattern []string

func (p pattern) matches(line string) bool {
	for _, text := range p {
		if !strings.Contains(line, text) {
			return false
		}
	}
	return true
}

func (p pattern) String() string { return strings.Join(p, " … ") }

// connectionID returns the id of a line about a step of a connection, in the form
// of ztunnel's first year: "… inbound{id=86e9 peer_ip=…}: …". It returns "" for
// any other line.
func connectionID(line string) string {
	_, rest, ok := strings.Cut(line, "bound{id=")
	if !ok {
		return ""
	}
	i := strings.IndexAny(rest, " }")
	if i < 0 {
		return ""
	}
	return rest[:i]
}

// routeName returns the route_name of a waypoint's access line.
func routeName(line string) string {
	var fields struct {
		Route string `json:"route_name"`
	}
	if json.Unmarshal([]byte(line), &fields) != nil {
		return ""
	}
	return fields.Route
}

// eventually waits until f is true, asking often, and gives up after limit.
func eventually(ctx context.Context, limit time.Duration, f func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for !f() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}
