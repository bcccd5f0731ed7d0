package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	page = 100 // objects in one answer to a list: a few MB, which are garbage soon

	// No object is larger than etcd's limit of 1.5 MiB. What the server says is
	// bounded all the same.
	maxPage  = 64 << 20
	maxEvent = 4 << 20

	// watchFor is how long we ask a watch to last; the server ends it then, and we
	// ask again. Half of it is added at random, so that nodes do not ask together.
	watchFor = 5 * time.Minute
)

// A Follower is told of objects, on one goroutine. What it is given is its to
// keep.
type Follower[T any] struct {
	Replace func([]T) // these are all: at first, and after changes were missed
	Set     func(T)   // there is a new one, or one has changed
	Delete  func(T)   // as it was at last
}

// Follow tells f of the objects of r, as they are and as they change, until ctx
// is done, and returns its error. Failures are logged and tried again; what f
// was told stays true until it hears otherwise.
func Follow[T any, P object[T]](ctx context.Context, c *Client, r Resource[T], f Follower[T]) error {
	w := follow[T, P]{c: c, r: r, f: f}
	for {
		w.heard = false
		err := w.once(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if w.heard {
			w.delay = 0
		}
		if Is(err, http.StatusGone) {
			w.version = ""
			c.o.Log.Debug("kube: changes were missed, listing anew", "path", r.path)
			if w.heard {
				continue
			}
		} else if err != nil {
			c.o.Log.Warn("kube: asking again", "path", r.path, "error", err)
		} else if w.heard {
			continue
		}
		if err := w.wait(ctx); err != nil {
			return err
		}
	}
}

// List returns the objects of r as they are now.
func List[T any, P object[T]](ctx context.Context, c *Client, r Resource[T]) ([]T, error) {
	w := follow[T, P]{c: c, r: r}
	all, _, err := w.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("kube: %s: %w", r.path, err)
	}
	return all, nil
}

type follow[T any, P object[T]] struct {
	c *Client
	r Resource[T]
	f Follower[T]

	version string // of what f knows; "": of nothing
	heard   bool   // since once was called, something of use
	delay   time.Duration
}

// once lists if it must, and watches until the watch ends.
func (w *follow[T, P]) once(ctx context.Context) error {
	if w.version == "" {
		all, version, err := w.list(ctx)
		if err != nil {
			return err
		}
		w.f.Replace(all)
		w.version, w.heard = version, true
	}
	return w.watch(ctx)
}

// wait passes the time until asking again makes sense.
func (w *follow[T, P]) wait(ctx context.Context) error {
	w.delay = min(max(2*w.delay, w.c.o.MinBackoff), w.c.o.MaxBackoff)
	t := time.NewTimer(w.delay*4/5 + rand.N(w.delay*2/5+1))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (w *follow[T, P]) query(more url.Values) url.Values {
	q := maps.Clone(w.r.query)
	if q == nil {
		q = url.Values{}
	}
	maps.Copy(q, more)
	return q
}

func (w *follow[T, P]) list(ctx context.Context) (all []T, version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for next := ""; ; {
		q := w.query(url.Values{"limit": {strconv.Itoa(page)}})
		if next != "" {
			q.Set("continue", next)
		}
		var l struct {
			Metadata struct{ ResourceVersion, Continue string }
			Items    []T
		}
		if err := w.read(ctx, q, &l); err != nil {
			return nil, "", fmt.Errorf("list: %w", err)
		}
		all = append(all, l.Items...)
		if l.Metadata.Continue == "" {
			if l.Metadata.ResourceVersion == "" {
				return nil, "", errors.New("list: no resourceVersion in the answer")
			}
			return all, l.Metadata.ResourceVersion, nil
		}
		next = l.Metadata.Continue
	}
}

func (w *follow[T, P]) read(ctx context.Context, q url.Values, to any) error {
	res, err := w.c.do(ctx, http.MethodGet, w.r.path, q, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return json.NewDecoder(&bounded{r: res.Body, left: maxPage}).Decode(to)
}

// watch tells of changes until the server ends it, which is no error.
func (w *follow[T, P]) watch(ctx context.Context) error {
	last := watchFor + rand.N(watchFor/2)
	ctx, cancel := context.WithTimeout(ctx, last+30*time.Second)
	defer cancel()
	res, err := w.c.do(ctx, http.MethodGet, w.r.path, w.query(url.Values{
		"watch": {"true"}, "resourceVersion": {w.version}, "allowWatchBookmarks": {"true"}, "timeoutSeconds": {strconv.Itoa(int(last.Seconds()))},
	}), nil)
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	defer res.Body.Close()
	b := &bounded{r: res.Body}
	d := json.NewDecoder(b)
	for {
		b.left = maxEvent
		var e struct {
			Type   string
			Object json.RawMessage
		}
		switch err := d.Decode(&e); {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("watch: %w", err)
		}
		if err := w.tell(e.Type, e.Object); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
	}
}

func (w *follow[T, P]) tell(kind string, raw json.RawMessage) error {
	if kind == "ERROR" {
		var s status
		if err := json.Unmarshal(raw, &s); err != nil {
			return err
		}
		return &StatusError{s.Code, s.Message}
	}
	var o T
	if err := json.Unmarshal(raw, &o); err != nil {
		return fmt.Errorf("%s event: %w", kind, err)
	}
	version := P(&o).meta().ResourceVersion
	if version == "" {
		return fmt.Errorf("%s event: no resourceVersion", kind)
	}
	switch kind {
	case "ADDED", "MODIFIED":
		w.f.Set(o)
	case "DELETED":
		w.f.Delete(o)
	case "BOOKMARK":
	default:
		return fmt.Errorf("event of type %q", kind)
	}
	w.version, w.heard = version, true
	return nil
}

// A bounded reader gives an error after left bytes.
type bounded struct {
	r    io.Reader
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errors.New("larger than any object may be")
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}
