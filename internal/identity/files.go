package identity

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/waystone-mesh/waystone/internal/watch"
)

const (
	// pollEvery is how often a directory is read although nothing was said:
	// network file systems and some volumes say nothing. Reading a hundred
	// identities takes a few milliseconds.
	pollEvery = 10 * time.Second

	// settle is how long to wait for the rest of a change: a certificate and its
	// key are two files.
	settle = 50 * time.Millisecond
)

// A Files source reads what something else writes: cert-manager's CSI driver, a
// mounted Secret, a script.
//
//	DIR/root-cert.pem            whom we trust
//	DIR/<ns>/<sa>/cert.pem       who we are: leaf first, then intermediates; or cert-chain.pem
//	DIR/<ns>/<sa>/key.pem
//	DIR/<ns>/<sa>/root*.pem      whom we trust, beside the identity
//
// Roots are those of every file together: they are trusted whichever identity
// is in use. A file that becomes unreadable or wrong is logged and what it said
// before stays in force.
type Files struct {
	// Immutable.
	dir  string
	name string // as errors say it
	o    Options

	now atomic.Pointer[filesView]

	// Owned by the watching goroutine, once it runs.
	files map[string]*file // by path, every one that was ever read well
	warn  map[string]string

	stop     context.CancelFunc
	stopping context.Context
	stopped  chan struct{}
}

// A filesView is all that the directory says. It is immutable.
type filesView struct {
	certs map[nsSA]*tls.Certificate
	ids   map[nsSA]ID
	errs  map[nsSA]error // why there is no certificate
	roots *x509bundle.Set
}

type nsSA struct{ ns, sa string }

// A file is the last good content of one or two paths.
type file struct {
	text  []byte              // the certificates
	key   []byte              // of an identity
	certs []*x509.Certificate // of a file of roots
	pair  *tls.Certificate    // of an identity
	id    ID
}

func openFiles(dir string, o Options) (*Files, error) {
	s := &Files{
		dir: dir, name: "identity: files:" + dir, o: o,
		files: map[string]*file{}, warn: map[string]string{},
		stopped: make(chan struct{}),
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	if fi, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, err)
	} else if !fi.IsDir() {
		return nil, fmt.Errorf("%s: not a directory", s.name)
	}
	w := watch.New(watch.Options{Settle: settle, Poll: pollEvery, Log: o.Log, Name: "identity"})
	w.Add(s.load())
	if s.Roots().Len() == 0 {
		w.Close()
		return nil, fmt.Errorf("%s: no roots: %s", s.name, s.why("root-cert.pem is missing"))
	}
	go s.run(w)
	return s, nil
}

// Close ends the watching of the directory.
func (s *Files) Close() error {
	s.stop()
	<-s.stopped
	return nil
}

// Roots implements [Source].
func (s *Files) Roots() *x509bundle.Set { return s.now.Load().roots }

// Terms implements [Source].
func (s *Files) Terms() *Terms { return &s.o.Terms }

// Certificate implements [Source]. It does not wait for files to appear.
func (s *Files) Certificate(_ context.Context, id ID) (*tls.Certificate, error) {
	v, key := s.now.Load(), nsSA{id.Namespace, id.ServiceAccount}
	c := v.certs[key]
	err := v.errs[key]
	switch {
	case c == nil && err == nil:
		err = fmt.Errorf("%s: no such directory", filepath.Join(s.dir, key.ns, key.sa))
	case c == nil:
	case v.ids[key] != id:
		err = fmt.Errorf("%s holds the certificate of %v", filepath.Join(s.dir, key.ns, key.sa), v.ids[key])
	case time.Now().After(c.Leaf.NotAfter):
		err = fmt.Errorf("the certificate in %s expired at %s", filepath.Join(s.dir, key.ns, key.sa), c.Leaf.NotAfter.Format(time.RFC3339))
	default:
		return c, nil
	}
	return nil, fmt.Errorf("%s: %q: %w", s.name, id, err)
}

func (s *Files) run(w *watch.Watch) {
	defer close(s.stopped)
	defer w.Close()
	for {
		if _, ok := w.Wait(s.stopping, false); !ok {
			return
		}
		w.Add(s.load())
		s.o.looked()
	}
}

// load reads the directory and publishes what it says. It returns the
// directories to watch.
func (s *Files) load() (dirs []string) {
	v := &filesView{certs: map[nsSA]*tls.Certificate{}, ids: map[nsSA]ID{}, errs: map[nsSA]error{}}
	seen := map[string]bool{}
	roots := x509bundle.New(spiffeid.RequireTrustDomainFromString(s.o.TrustDomain))
	addRoots := func(path string) {
		seen[path] = true
		if f := s.roots(path); f != nil {
			for _, c := range f.certs {
				roots.AddX509Authority(c)
			}
		}
	}
	dirs = append(dirs, s.dir)
	addRoots(filepath.Join(s.dir, "root-cert.pem"))
	for _, ns := range s.list(s.dir) {
		dirs = append(dirs, filepath.Join(s.dir, ns))
		for _, sa := range s.list(filepath.Join(s.dir, ns)) {
			dir := filepath.Join(s.dir, ns, sa)
			dirs = append(dirs, dir)
			extra, _ := filepath.Glob(filepath.Join(dir, "root*.pem")) // the pattern is well formed
			for _, path := range extra {
				addRoots(path)
			}
			seen[dir] = true
			f, err := s.pair(dir, nsSA{ns, sa})
			if f != nil {
				v.certs[nsSA{ns, sa}], v.ids[nsSA{ns, sa}] = f.pair, f.id
			} else {
				v.errs[nsSA{ns, sa}] = err
			}
		}
	}
	for path := range s.files {
		if !seen[path] { // the workload is gone, and so is its identity
			delete(s.files, path)
			delete(s.warn, path)
			s.o.Log.Info("identity: files are gone", "path", path)
		}
	}
	set := x509bundle.NewSet()
	if !roots.Empty() {
		set.Add(roots)
	}
	v.roots = s.o.aliased(set)
	s.now.Store(v)
	return dirs
}

// list returns the directories in dir that can be a namespace or an account:
// a mounted volume keeps its own beside them, behind a dot.
func (s *Files) list(dir string) (names []string) {
	entries, err := os.ReadDir(dir)
	s.complain(dir, err)
	for _, e := range entries {
		fi, err := os.Stat(filepath.Join(dir, e.Name())) // through a symbolic link
		if err == nil && fi.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names
}

// roots returns the last good content of a file of roots, or nil. A file that
// is not there says nothing, even if it did before.
func (s *Files) roots(path string) *file {
	old := s.files[path]
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && old == nil {
		return nil
	}
	if err == nil && old != nil && bytes.Equal(text, old.text) {
		s.complain(path, nil)
		return old
	}
	var bundle *x509bundle.Bundle
	if err == nil {
		bundle, err = x509bundle.Parse(spiffeid.RequireTrustDomainFromString(s.o.TrustDomain), text)
	}
	if err == nil && bundle.Empty() {
		err = errors.New("no certificate in it")
	}
	if s.complain(path, err) != nil {
		return old
	}
	f := &file{text: text, certs: bundle.X509Authorities()}
	s.files[path] = f
	s.o.Log.Info("identity: read roots", "path", path, "certificates", len(f.certs))
	return f
}

// pair returns the last good certificate and key of dir, or nil and why there
// is none.
func (s *Files) pair(dir string, want nsSA) (*file, error) {
	old := s.files[dir]
	cert, key, path, err := readPair(dir)
	if err == nil && old != nil && bytes.Equal(cert, old.text) && bytes.Equal(key, old.key) {
		s.complain(dir, nil)
		return old, nil
	}
	var f *file
	if err == nil {
		if f, err = s.parsePair(cert, key, want); err != nil {
			err = fmt.Errorf("%s: %w", path, err)
		}
	}
	if s.complain(dir, err) != nil {
		return old, err
	}
	s.files[dir] = f
	s.o.Log.Info("identity: read certificate", "path", path, "id", f.id.String(), "expires", f.pair.Leaf.NotAfter)
	return f, nil
}

// readPair returns the certificate chain and the key in dir, and the name of the
// file of certificates.
func readPair(dir string) (cert, key []byte, path string, err error) {
	path = filepath.Join(dir, "cert-chain.pem")
	cert, err = os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		path = filepath.Join(dir, "cert.pem")
		cert, err = os.ReadFile(path)
	}
	if err == nil {
		key, err = os.ReadFile(filepath.Join(dir, "key.pem"))
	}
	return cert, key, path, err
}

func (s *Files) parsePair(cert, key []byte, want nsSA) (*file, error) {
	pair, err := tls.X509KeyPair(cert, key) // checks that the key is the leaf's
	if err != nil {
		return nil, err
	}
	spiffe, err := x509svid.IDFromCert(pair.Leaf)
	if err != nil {
		return nil, err
	}
	id, err := FromSPIFFE(spiffe)
	if err != nil {
		return nil, err
	}
	if got := (nsSA{id.Namespace, id.ServiceAccount}); got != want || !s.o.vouches(id.TrustDomain) {
		return nil, fmt.Errorf("the certificate is for %v, want %v", id, ID{s.o.TrustDomain, want.ns, want.sa})
	}
	if time.Now().After(pair.Leaf.NotAfter) {
		return nil, fmt.Errorf("the certificate expired at %s", pair.Leaf.NotAfter.Format(time.RFC3339))
	}
	return &file{text: cert, key: key, pair: &pair, id: id}, nil
}

// complain logs err about path, once for as long as it stays the same, and
// returns it.
func (s *Files) complain(path string, err error) error {
	if err == nil {
		delete(s.warn, path)
		return nil
	}
	if s.warn[path] != err.Error() {
		s.warn[path] = err.Error()
		s.o.Log.Error("identity: what was read before stays in force", slog.String("path", path), slog.Any("error", err))
	}
	return err
}

// why returns what was wrong with the roots, or otherwise.
func (s *Files) why(otherwise string) string {
	if w := s.warn[filepath.Join(s.dir, "root-cert.pem")]; w != "" {
		return w
	}
	return otherwise
}
