package policy

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/waystone-mesh/waystone/authz/jwt"
)

// ReadAtMost reads all that r has, which must not be more than so many bytes.
func ReadAtMost(r io.Reader, most int) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
	if err == nil && len(data) > most {
		err = fmt.Errorf("is longer than %d bytes", most)
	}
	return data, err
}

// AddKeys takes a key set for the one that would be fetched at a jwksUri or, by
// OpenID Connect Discovery, from an issuer.
func (r *Request) AddKeys(uri string, content []byte) error {
	keys, err := jwt.ParseKeys(content)
	if keys == nil || keys.Len() == 0 {
		return errors.Join(errors.New("there is no key to be used"), err)
	}
	if r.Keys == nil {
		r.Keys = jwt.Ring{}
	}
	r.Keys[jwt.Source{URI: uri}] = keys
	r.Keys[jwt.Source{Issuer: uri}] = keys
	return nil
}

// Findings returns findings for people: a line for each, and how many there are.
func Findings(list []Finding) string {
	var b strings.Builder
	errs, warnings := 0, 0
	for _, f := range list {
		b.WriteString(f.String() + "\n")
		if f.Level == "error" {
			errs++
		} else {
			warnings++
		}
	}
	if len(list) == 0 {
		return "nothing to find fault with\n"
	}
	fmt.Fprintf(&b, "%d errors, %d warnings\n", errs, warnings)
	return b.String()
}

// A Progress tells how far something long is, on one line of a terminal.
type Progress struct {
	out   io.Writer
	shown bool
	began time.Time

	mu   sync.Mutex
	last time.Time // Guarded by mu.
}

// NewProgress returns a Progress that says nothing unless it is shown.
func NewProgress(out io.Writer, shown bool, now time.Time) *Progress {
	return &Progress{out: out, shown: shown, began: now, last: now}
}

// progressEvery is how often the line is written: what an eye can follow.
const progressEvery = 200 * time.Millisecond

// Tell says how many lines and bytes have been read. It is safe for concurrent
// use.
func (p *Progress) Tell(lines, bytes int64) {
	if !p.shown {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Sub(p.last) < progressEvery {
		return
	}
	p.last = now
	seconds := now.Sub(p.began).Seconds()
	fmt.Fprintf(p.out, "\r%d lines, %d MiB, %.0f lines/s \x1b[K", lines, bytes>>20, float64(lines)/seconds)
}

// End takes the line away.
func (p *Progress) End() {
	if p.shown {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}
