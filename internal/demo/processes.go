//go:build linux

package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// startup is how long a child has until it is ready, and shutdown until it has
// ended: 10 s each, on a machine that is busy with something else.
const (
	startup  = 10 * time.Second
	shutdown = 10 * time.Second
)

// A family is the children of this process. It is used by one goroutine.
type family struct {
	program string // this one
	logs    string // the directory
	forks   chan func()
	all     []*child // in the order in which they were started
}

// newFamily returns an empty family, whose children die with this process.
//
// The kernel takes the death of the thread that forked for that of the parent, so
// that all forking is done on one thread, which lives as long as the family.
func newFamily(program, logs string) *family {
	f := &family{program: program, logs: logs, forks: make(chan func())}
	go f.fork()
	return f
}

func (f *family) fork() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for do := range f.forks {
		do()
	}
}

// A child is one process.
type child struct {
	name  string
	log   logFile
	cmd   *exec.Cmd
	done  chan struct{} // closed when it has ended
	err   error         // how, once done
	ready string        // the URL that answers 200 when it is ready
}

// start runs this program with other arguments. Its output goes to a log.
func (f *family) start(name, ready string, args ...string) (*child, error) {
	c := &child{name: name, ready: ready, done: make(chan struct{})}
	c.log = logFile{name, filepath.Join(f.logs, strings.ReplaceAll(name, " ", "-")+".log")}
	out, err := os.OpenFile(c.log.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	c.cmd = exec.Command(f.program, args...)
	c.cmd.Stdout, c.cmd.Stderr = out, out
	c.cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true, // Ctrl-C is for us: the children are ended in order
		Pdeathsig: syscall.SIGKILL,
	}
	started := make(chan error)
	f.forks <- func() { started <- c.cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	f.all = append(f.all, c)
	go c.wait()
	return c, nil
}

func (c *child) wait() {
	c.err = c.cmd.Wait()
	close(c.done)
}

// awaitReady waits until children answer that they are ready.
func awaitReady(ctx context.Context, children ...*child) error {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for _, c := range children {
		ended := false
		err := eventually(ctx, startup, func() bool {
			select {
			case <-c.done:
				ended = true
				return true
			default:
			}
			resp, err := client.Get(c.ready)
			if err != nil {
				return false
			}
			resp.Body.Close()
			return resp.StatusCode == http.StatusOK
		})
		switch {
		case ended:
			return fmt.Errorf("%s has ended: %s\n%s", c.name, c.cmd.ProcessState, c.tail())
		case err != nil:
			return fmt.Errorf("%s is not ready at %s: %w\n%s", c.name, c.ready, err, c.tail())
		}
	}
	return nil
}

// tail returns the last lines of what the child wrote.
func (c *child) tail() string {
	lines := c.log.lines(0)
	if len(lines) > 10 {
		lines = lines[len(lines)-10:]
	}
	return strings.Join(lines, "\n")
}

// stop ends a child by SIGTERM, and by force when it does not end. It is an error
// if it had ended before, ends otherwise than in order, or does not.
func (c *child) stop() error {
	select {
	case <-c.done:
		return fmt.Errorf("%s had ended already: %s", c.name, c.cmd.ProcessState)
	default:
	}
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended just now
	select {
	case <-c.done:
	case <-time.After(shutdown):
		_ = c.cmd.Process.Kill()
		<-c.done
		return fmt.Errorf("%s did not end within %v of SIGTERM", c.name, shutdown)
	}
	if c.err != nil {
		return fmt.Errorf("%s: %w", c.name, c.err)
	}
	return nil
}

// end stops one child.
func (f *family) end(c *child) error {
	for i, x := range f.all {
		if x == c {
			f.all = append(f.all[:i], f.all[i+1:]...)
			return c.stop()
		}
	}
	return nil
}

// close stops all children, the last started first.
func (f *family) close() error {
	var errs []error
	for len(f.all) > 0 {
		errs = append(errs, f.end(f.all[len(f.all)-1]))
	}
	close(f.forks)
	return errors.Join(errs...)
}

// free reports which of some addresses are in use, the first few by name.
func free(addresses ...string) error {
	const told = 3
	var errs []error
	for _, a := range addresses {
		ln, err := net.Listen("tcp", a)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		ln.Close()
	}
	switch n := len(errs) - told; {
	case len(errs) == 0:
		return nil
	case n > 0:
		errs = append(errs[:told], fmt.Errorf("and %d more", n))
	}
	return fmt.Errorf("%w: is another demo running?", errors.Join(errs...))
}
