package main

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
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// startup is how long a process has until it is ready: 20 s, for Envoy on a
	// machine that is busy with something else.
	startup = 20 * time.Second

	// shutdown is how long it has to end: 15 s, which is more than ours give to
	// what is in flight.
	shutdown = 15 * time.Second
)

// A family is the processes of a run, which die with it.
//
// The kernel takes the death of the thread that forked for that of the parent, so
// that all forking is done on one thread, which lives as long as the family.
type family struct {
	forks chan func()
	all   []*child // in the order in which they were started; used by one goroutine
}

func newFamily() *family {
	f := &family{forks: make(chan func())}
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
	name string
	said string // the file of its output
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how, once done
}

// start runs a program. What it writes is appended to the file said.
func (f *family) start(name, said, program string, args ...string) (*child, error) {
	out, err := os.OpenFile(said, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	c := &child{name: name, said: said, cmd: exec.Command(program, args...), done: make(chan struct{})}
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

func (c *child) pid() int { return c.cmd.Process.Pid }

// workers returns the processes that do c's work: c, and the children that it has.
func (c *child) workers() []int {
	pids := []int{c.pid()}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", c.pid())) // the pattern is well formed
	for _, path := range tasks {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread is gone
		}
		for word := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(word); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// await returns when ready says nothing, and fails when c ends before, or takes
// too long.
func (c *child) await(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startup)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-c.done:
			return fmt.Errorf("%s has ended: %v\n%s", c.name, c.cmd.ProcessState, c.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w\n%s", c.name, err, c.tail())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// answers returns a function that reports whether a URL answers 200.
func answers(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := fetch(ctx, url)
		return err
	}
}

// tail returns the last lines of what c wrote.
func (c *child) tail() string {
	text, err := os.ReadFile(c.said)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

// stop ends a child by a signal, and by force when it does not end. It is an error
// if it had ended before, ends otherwise than in order or by the signal, or does
// not.
func (c *child) stop(signal syscall.Signal) error {
	select {
	case <-c.done:
		return fmt.Errorf("%s had died: %v\n%s", c.name, c.cmd.ProcessState, c.tail())
	default:
	}
	_ = c.cmd.Process.Signal(signal) // it may have ended just now
	select {
	case <-c.done:
	case <-time.After(shutdown):
		_ = c.cmd.Process.Kill()
		<-c.done
		return fmt.Errorf("%s did not end within %v of %v", c.name, shutdown, signal)
	}
	// A program that does not catch the signal dies of it, or says 128 more.
	status, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && (status.Signaled() && status.Signal() == signal || status.ExitStatus() == 128+int(signal)) {
		return nil
	}
	if c.err != nil {
		return fmt.Errorf("%s: %w\n%s", c.name, c.err, c.tail())
	}
	return nil
}

// end stops some children, the last given first.
func (f *family) end(signal syscall.Signal, children ...*child) error {
	var errs []error
	for i := len(children) - 1; i >= 0; i-- {
		for at, x := range f.all {
			if x == children[i] {
				f.all = append(f.all[:at], f.all[at+1:]...)
				errs = append(errs, x.stop(signal))
				break
			}
		}
	}
	return errors.Join(errs...)
}

// close stops all that are left, the last started first.
func (f *family) close() error {
	var errs []error
	for len(f.all) > 0 {
		errs = append(errs, f.end(syscall.SIGTERM, f.all[len(f.all)-1]))
	}
	close(f.forks)
	return errors.Join(errs...)
}

// fetch returns what a URL answers, which must be 200.
func fetch(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return answer(req)
}

// run returns what a program writes, at most for a few seconds.
func run(program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	text, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	return string(text), err
}

// onPath reports why a program of a Debian package cannot be run, or "".
func onPath(program, debian string) string {
	if _, err := lookPath(program); err != nil {
		return program + " is not installed: apt-get install " + debian
	}
	return ""
}

// lookPath also looks where Debian keeps daemons, which is not on everybody's path.
func lookPath(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + program)
	}
	return path, err
}

// connects returns a function that reports whether an address takes connections.
func connects(address string) func(context.Context) error {
	return func(ctx context.Context) error {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return c.Close()
	}
}
