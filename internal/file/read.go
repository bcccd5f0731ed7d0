package file

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waystone-mesh/waystone/authz"
	"github.com/waystone-mesh/waystone/internal/config"
	"github.com/waystone-mesh/waystone/internal/manifest"
	"github.com/waystone-mesh/waystone/internal/mesh"
)

// A read is one file as last read.
type read struct {
	stamp   stamp
	sum     [sha256.Size]byte
	objects map[mesh.Key]*manifest.Object
	errs    []*manifest.Error // documents that cannot be told, and objects that are there twice
	empty   bool              // it was found empty, which is not believed yet
}

// A stamp tells whether a file may have changed without reading it.
type stamp struct {
	modified time.Time
	size     int64
}

// list returns the files to read, in the order of their names. That of MeshConfig
// is one, and the last.
func (s *Source) list() ([]string, error) {
	names, err := s.manifests()
	if err == nil && s.o.MeshConfig != "" {
		names = append(names, s.o.MeshConfig)
	}
	return names, err
}

func (s *Source) manifests() ([]string, error) {
	info, err := os.Stat(s.o.Path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{s.o.Path}, nil
	}
	entries, err := os.ReadDir(s.o.Path)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		name := filepath.Join(s.o.Path, e.Name())
		if !manifestName(e.Name()) || s.isMeshConfig(name) {
			continue
		}
		if info, err := os.Stat(name); err == nil && info.IsDir() {
			continue
		}
		names = append(names, name)
	}
	return names, nil
}

// manifestName reports whether a file of that name is one of ours. What begins
// with a dot is not: editors keep their own there, and ConfigMap mounts.
func manifestName(name string) bool {
	if strings.HasPrefix(name, ".") {
		return false
	}
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// directories returns what to watch: renaming a file, or swapping a symbolic
// link to a directory, shows in the directory where it is.
func (s *Source) directories() (dirs []string) {
	s.followed = nil
	for _, path := range []string{s.o.Path, s.o.MeshConfig} {
		if path == "" {
			continue
		}
		if abs, err := filepath.Abs(path); err == nil {
			path = abs
		}
		dirs = append(dirs, filepath.Dir(path))
		s.followed = append(s.followed, filepath.Base(path))
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			dirs = append(dirs, path)
		} else if real, err := filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(real))
			s.followed = append(s.followed, filepath.Base(real))
		}
	}
	return dirs
}

// concerns reports whether a change of path can be one of ours: of a manifest,
// of the path that we follow, or of the link that a ConfigMap mount swaps.
func (s *Source) concerns(path string) bool {
	name := filepath.Base(path)
	return manifestName(name) || strings.HasPrefix(name, "..") || slices.Contains(s.followed, name)
}

// look reads those of names that may have changed, because of their stamp or
// because they are named, and applies what follows, with anyway even if nothing
// does. It reports whether to look again soon.
func (s *Source) look(store *config.Store, names []string, named map[string]bool, anyway bool) (again bool) {
	changed := 0
	for name := range s.files {
		if !slices.Contains(names, name) {
			delete(s.files, name)
			changed++
		}
	}
	swapped := named["..data"] // a ConfigMap's mount: every file is another now
	var fresh contents
	for _, name := range names {
		c, failed, soon := s.read(name, swapped || named[filepath.Base(name)])
		again = again || soon
		if failed {
			changed++
		}
		if c != nil {
			fresh.all = append(fresh.all, c)
		}
	}
	fresh.decode(s.decode)
	for _, c := range fresh.all {
		s.take(c)
		changed++
	}
	if changed == 0 && !anyway {
		return again
	}
	changes, errs := s.merge(names)
	s.mu.Lock()
	updates := s.index.Apply(changes...)
	ignored := s.index.Ignored()
	s.mu.Unlock()
	s.sayIgnored(ignored)
	_ = store.Apply(updates) // Rejected says it all, and not only of this batch
	problems := s.settleProblems(s.rejected(store, errs))
	s.o.Logger.Info("config: read", "path", s.o.Path, "files", changed, "updates", len(updates), "problems", len(problems))
	if s.o.OnRead != nil {
		s.o.OnRead(Report{Files: changed, Updates: len(updates), Problems: problems})
	}
	return again
}

// A content is what is in a file that has changed.
type content struct {
	name  string
	data  []byte
	stamp stamp
	sum   [sha256.Size]byte
	file  *manifest.File // what data says
}

// contents are decoded side by side: that is most of the time that a program with
// a hundred services takes to start.
type contents struct {
	all  []*content
	next atomic.Int64
}

func (c *contents) decode(by func(name string, data []byte) *manifest.File) {
	var decoders sync.WaitGroup
	for range min(len(c.all), runtime.GOMAXPROCS(0)) {
		decoders.Go(func() { c.decodeNext(by) })
	}
	decoders.Wait()
}

// decodeNext decodes what is left.
func (c *contents) decodeNext(by func(name string, data []byte) *manifest.File) {
	for i := int(c.next.Add(1)) - 1; i < len(c.all); i = int(c.next.Add(1)) - 1 {
		c.all[i].file = by(c.all[i].name, c.all[i].data)
	}
}

// read reads one file if it may have changed, and returns what is in it if it
// has. It reports whether it failed for a new reason, and whether to look again
// soon.
func (s *Source) read(name string, named bool) (c *content, failed, again bool) {
	old := s.files[name]
	info, err := os.Stat(name)
	if err != nil {
		return nil, s.failed(name, err), false
	}
	at := stamp{info.ModTime(), info.Size()}
	if old != nil && old.stamp == at && !named && !old.empty {
		return nil, false, false
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, s.failed(name, err), false
	}
	// A file that is suddenly empty is about to be written, most likely. To
	// believe it at once would take every policy in it out of force meanwhile.
	if len(data) == 0 && old != nil && len(old.objects) > 0 && !old.empty {
		old.empty = true
		return nil, false, true
	}
	sum := sha256.Sum256(data)
	if old != nil && old.sum == sum {
		old.stamp, old.empty = at, false
		return nil, false, false
	}
	return &content{name: name, data: data, stamp: at, sum: sum}, false, false
}

// failed notes a file that is there but cannot be read: it keeps its objects.
func (s *Source) failed(name string, err error) bool {
	old := s.files[name]
	if old == nil {
		old = &read{}
		s.files[name] = old
	}
	e := &manifest.Error{File: name, Reason: plain(err)}
	if len(old.errs) == 1 && *old.errs[0] == *e {
		return false
	}
	old.errs, old.stamp, old.sum = []*manifest.Error{e}, stamp{}, [sha256.Size]byte{}
	return true
}

// take makes c, decoded, what the file was last read as.
func (s *Source) take(c *content) {
	f, old := c.file, s.files[c.name]
	r := &read{stamp: c.stamp, sum: c.sum, objects: map[mesh.Key]*manifest.Object{}, errs: f.Errors}
	for _, o := range f.Objects {
		if before, twice := r.objects[o.Key]; twice {
			r.errs = append(r.errs, twiceError(o, before))
			continue
		}
		r.objects[o.Key] = o
	}
	if len(f.Errors) > 0 && old != nil { // who knows what the broken document was
		for key, o := range old.objects {
			if r.objects[key] == nil {
				r.objects[key] = o
			}
		}
	}
	for _, u := range f.Unknown {
		if !s.unknown[u.Kind] {
			s.unknown[u.Kind] = true
			s.o.Logger.Warn("config: kind is not read", "kind", u.Kind, "name", u.Name, "file", u.File, "line", u.Line)
		}
	}
	s.files[c.name] = r
}

// twiceError names both places of an object that is there twice.
func twiceError(o, before *manifest.Object) *manifest.Error {
	at := manifest.Error{File: before.File, Line: before.Line}
	return &manifest.Error{File: o.File, Line: o.Line, Object: o.Key, Reason: "is also in " + strings.TrimSuffix(at.Error(), ": ")}
}

// merge decides which file an object is taken from, and returns what differs
// from before. Of an object in two files, the version that is in force stays,
// or else that of the first file counts.
func (s *Source) merge(names []string) ([]manifest.Change, []*manifest.Error) {
	owners := map[mesh.Key]*manifest.Object{}
	var errs []*manifest.Error
	for _, name := range names {
		r := s.files[name]
		if r == nil {
			continue
		}
		errs = append(errs, r.errs...)
		for _, key := range slices.SortedFunc(maps.Keys(r.objects), byLine(r)) {
			o := r.objects[key]
			if o.Err != nil {
				errs = append(errs, o.Err)
			}
			before, twice := owners[key]
			if twice && s.owners[key] != nil && s.owners[key].File == o.File && before.File != o.File {
				before, o = o, before
			}
			if twice {
				errs = append(errs, twiceError(o, before))
				o = before
			}
			owners[key] = o
		}
	}
	var changes []manifest.Change
	for key := range s.owners {
		if owners[key] == nil {
			changes = append(changes, manifest.Change{Key: key})
		}
	}
	for key, o := range owners {
		if s.owners[key] != o {
			changes = append(changes, manifest.Change{Key: key, Object: o})
		}
	}
	s.owners = owners
	return changes, errs
}

func byLine(r *read) func(a, b mesh.Key) int {
	return func(a, b mesh.Key) int { return r.objects[a].Line - r.objects[b].Line }
}

// rejected adds to errs what else the store does not take: what passed here, and
// parts of MeshConfig, each of which is refused by itself.
func (s *Source) rejected(store *config.Store, errs []*manifest.Error) []*manifest.Error {
	for _, r := range store.Rejected() {
		var e *manifest.Error
		switch {
		case !errors.As(r.Err, &e):
			errs = append(errs, s.place(r))
		case !slices.Contains(errs, e):
			errs = append(errs, e)
		}
	}
	return errs
}

// place says where a resource stands that the store did not take.
func (s *Source) place(r config.Rejection) *manifest.Error {
	e := &manifest.Error{File: s.o.Path, Object: r.Key, Reason: r.Err.Error()}
	if o := s.owners[r.Key]; o != nil {
		e.File, e.Line = o.File, o.Line
	}
	var field *authz.FieldError
	if errors.As(r.Err, &field) {
		e.Field, e.Reason = field.Field, field.Reason
	}
	return e
}

// sayIgnored logs each part of MeshConfig once that is not read.
func (s *Source) sayIgnored(parts []string) {
	for _, part := range parts {
		if !s.ignored[part] {
			s.ignored[part] = true
			s.o.Logger.Debug("config: not read", "part", part)
		}
	}
}

// plain says what the operating system said, without the path.
func plain(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}
