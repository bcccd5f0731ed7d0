package opa

import (
	"cmp"
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/watch"
)

// How often the files are looked at: 100 ms after the last of several changes,
// and every half minute where nothing tells of them.
const (
	settle = 100 * time.Millisecond
	poll   = 30 * time.Second
)

// follow reads the policy, and reads it again when its files change.
func (a *Authorizer) follow(ctx context.Context) {
	defer close(a.done)
	path := a.provider.OPA.Path
	if path == "" {
		a.load(ctx)
		return
	}
	w := watch.New(watch.Options{Settle: settle, Poll: poll, Concerns: a.concerns, Log: a.logger, Name: "opa: " + path})
	defer w.Close()
	var seen map[string]stamp
	for first, ok := true, true; ok; first = false {
		w.Add(directories(path)) // before reading: what changes meanwhile is told
		if now := stamps(path); first || !maps.Equal(now, seen) {
			seen = now
			a.load(ctx)
		}
		_, ok = w.Wait(ctx, false)
	}
}

// load reads and compiles the policy, and puts it in force if it is good. The
// first time, that of the Authorizer before is, if it is not.
func (a *Authorizer) load(ctx context.Context) {
	p, err := a.compile(ctx)
	before := a.after.Load()
	a.mu.Lock()
	if err == nil {
		a.current.Store(p)
		a.status = Status{Loaded: time.Now(), Revision: p.revision}
	} else {
		if old := before.inForce(); old != nil && a.current.Load() == nil {
			a.current.Store(old)
			a.status = before.Status()
		}
		a.status.Err = err
	}
	loaded := a.status.Loaded
	a.mu.Unlock()
	select {
	case <-a.looked:
	default:
		close(a.looked)
		a.after.Store(nil)
	}
	switch {
	case err == nil:
		a.logger.Info("policy loaded", "revision", p.revision)
	case loaded.IsZero():
		a.logger.Error("there is no policy: whatever it is to decide about is not decided", "error", err)
	default:
		a.logger.Error("the policy is not taken: the last good one stays in force", "loaded", loaded, "error", err)
	}
}

// compile returns what is to be in force, or a *authz.ProviderError.
func (a *Authorizer) compile(ctx context.Context) (*policy, error) {
	o := a.provider.OPA
	s, err := read(o)
	var p *policy
	if err == nil {
		p, err = newPolicy(ctx, s, decisionPath(o))
	}
	if err == nil {
		return p, nil
	}
	field, reason := "opa.configMap", err.Error()
	switch {
	case o.Path != "":
		field = "opa.path"
	case o.ConfigMap != "":
		reason = o.ConfigMap + ": " + reason
	}
	return nil, &authz.ProviderError{Provider: a.provider.Name, Field: field, Reason: reason}
}

// inForce returns the policy of an Authorizer, which may be nil.
func (a *Authorizer) inForce() *policy {
	if a == nil {
		return nil
	}
	return a.current.Load()
}

// A stamp is what a change to a file changes.
type stamp struct {
	modified time.Time
	size     int64
}

// stamps looks at the files of a policy without reading them. What cannot be
// looked at is missing.
func stamps(root string) map[string]stamp {
	all := map[string]stamp{}
	_ = walk(root, func(name string) error {
		if info, err := os.Stat(name); err == nil {
			all[name] = stamp{info.ModTime(), info.Size()}
		}
		return nil
	})
	if info, err := os.Stat(filepath.Join(root, ".manifest")); err == nil {
		all[".manifest"] = stamp{info.ModTime(), info.Size()}
	}
	return all
}

// directories lists those in which something may change: all below the path, and
// where the path itself, and what it links to, is.
func directories(root string) []string {
	dirs := []string{filepath.Dir(root)}
	if real, err := filepath.EvalSymlinks(root); err == nil {
		dirs = append(dirs, filepath.Dir(real))
	}
	_ = filepath.WalkDir(root, func(name string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, name)
		}
		return nil
	})
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// concerns reports whether a file may be of the policy: a decision log, or
// anything else, may be beside it.
func (a *Authorizer) concerns(name string) bool {
	o := a.provider.OPA
	base, ext := filepath.Base(name), filepath.Ext(name)
	switch {
	case filepath.Clean(name) == filepath.Clean(cmp.Or(o.DecisionLog, "-")):
		return false
	case strings.HasPrefix(base, ".."), base == ".manifest", base == filepath.Base(o.Path):
		return true
	}
	return ext == ".rego" || isData(ext) || ext == "" || strings.HasSuffix(base, ".tar.gz")
}
