package main

import (
	"cmp"
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
)

// The ports of a pod.
const (
	portHBONE   = 15008
	portSOCKS   = 15080
	portAdmin   = 15000
	portMetrics = 15020
	portReady   = 15021
)

// An env is where systems run: directories, programs, certificates, addresses and
// the destination that all of them lead to.
type env struct {
	// Immutable.
	dir         string // everything that a run writes is below it
	bin         string // our own programs
	logs        string // what processes write
	certs       *certificates
	destination destination
	loops       int      // loops, workers or threads of a system; 1 unless a scenario says otherwise
	args        []string // further flags of our own proxies
	services    int      // that there are in the mesh besides those that are asked for

	family *family
	made   *atomic.Uint32 // addresses given out
}

// A destination is where requests end. Whoever starts it has it listen there.
type destination struct {
	HBONE netip.AddrPort // as account server
	Plain netip.AddrPort // plain TCP
	HTTP2 netip.AddrPort // over TLS, for reverse proxies; see startOrigins
	HTTP1 netip.AddrPort // without TLS
}

// newEnv makes what a run needs. Our own programs are in bin, everything else is
// written below dir, which is made, and which the caller removes.
func newEnv(dir, bin string) (*env, error) {
	e := &env{dir: dir, bin: bin, logs: filepath.Join(dir, "logs"), loops: 1, made: new(atomic.Uint32)}
	if err := os.MkdirAll(e.logs, 0o755); err != nil {
		return nil, err
	}
	e.made.Store(rand.Uint32N(1 << 24))
	var err error
	if e.certs, err = newCertificates(filepath.Join(dir, "certs")); err != nil {
		return nil, err
	}
	e.destination.HBONE = netip.AddrPortFrom(e.address(), portHBONE)
	e.destination.Plain = netip.AddrPortFrom(e.address(), 8080)
	e.destination.HTTP2 = netip.AddrPortFrom(e.address(), 8443)
	e.destination.HTTP1 = netip.AddrPortFrom(e.address(), 8080)
	e.family = newFamily()
	return e, nil
}

// with returns e for systems with so many loops, workers or threads.
func (e *env) with(loops int) *env {
	other := *e
	other.loops = cmp.Or(loops, 1)
	return &other
}

// close ends every process that is still running.
func (e *env) close() error { return e.family.close() }

// address returns an address of this machine that nobody else has, as a pod would:
// all of 127/8 is ours on Linux. The first is random, for runs at once.
func (e *env) address() netip.Addr {
	n := e.made.Add(1)
	// Neither the demo's pods (127.244) nor its services (127.96).
	second := 100 + n>>16%140
	return netip.AddrFrom4([4]byte{127, byte(second), byte(n >> 8), byte(n)})
}

// directory makes one for a system to write into.
func (e *env) directory(name string) (string, error) {
	dir, err := os.MkdirTemp(e.dir, strings.ReplaceAll(name, " ", "-")+"-")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}

// program returns the path of one of ours.
func (e *env) program(name string) string { return filepath.Join(e.bin, name) }

// have reports why one of our programs cannot be run, or "".
func have(path string) string {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return path + " is not there: make build h2proxy"
	case err != nil:
		return err.Error()
	case info.Mode()&0o111 == 0:
		return path + " is not a program"
	}
	return ""
}
