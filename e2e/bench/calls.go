package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A tally has the kernel count the system calls of processes, by name. It slows
// every system call of the machine a little, so that it is for rounds of its own.
type tally struct {
	names  []string
	events [][]int // the descriptors of each: one for each thread
}

// every is the name of the count of all system calls.
const every = "all"

// counted are those that have a count of their own. What there was of others is
// the difference to every.
var counted = []string{
	"read", "readv", "recvfrom", "recvmsg", "write", "writev", "sendto", "sendmsg", "splice",
	"epoll_wait", "epoll_pwait", "epoll_pwait2", "epoll_ctl", "poll", "ppoll", "futex", "nanosleep", "clock_nanosleep",
	"accept4", "socket", "connect", "close", "shutdown", "setsockopt", "getsockopt",
	"mmap", "munmap", "madvise", "brk", "sched_yield", "tgkill", "timerfd_settime",
}

// isRead and isWrite say which of them move bytes.
var (
	isRead  = map[string]bool{"read": true, "readv": true, "recvfrom": true, "recvmsg": true}
	isWrite = map[string]bool{"write": true, "writev": true, "sendto": true, "sendmsg": true}
)

// newTally counts from now on, for the threads that there are and those that they
// make. It is an error where the kernel does not let us: that needs its tracing
// file system, and root or CAP_PERFMON.
func newTally(pids []int) (*tally, error) {
	dir, err := tracing()
	if err != nil {
		return nil, err
	}
	t := &tally{}
	for _, name := range append([]string{every}, counted...) {
		path := "syscalls/sys_enter_" + name
		if name == every {
			path = "raw_syscalls/sys_enter"
		}
		text, err := os.ReadFile(filepath.Join(dir, "events", path, "id"))
		if errors.Is(err, os.ErrNotExist) && name != every {
			continue // not on this architecture
		}
		id, perr := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		if err = errors.Join(err, perr); err != nil {
			return nil, errors.Join(err, t.close())
		}
		t.names = append(t.names, name)
		fds, err := countEvent(id, pids)
		t.events = append(t.events, fds)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("counting %s: %w", name, err), t.close())
		}
	}
	return t, nil
}

// tracing returns where the tracing file system is. Root may have it mounted where
// it belongs, as perf(1) does.
func tracing() (string, error) {
	const dir = "/sys/kernel/tracing"
	if _, err := os.Stat(dir + "/events/raw_syscalls"); err == nil {
		return dir, nil
	}
	if err := unix.Mount("tracefs", dir, "tracefs", 0, ""); err != nil {
		return "", fmt.Errorf("system calls cannot be counted: mounting %s: %w", dir, err)
	}
	return dir, nil
}

// countEvent counts a tracepoint in every thread of some processes.
func countEvent(id uint64, pids []int) (fds []int, err error) {
	attr := unix.PerfEventAttr{
		Type: unix.PERF_TYPE_TRACEPOINT, Config: id,
		Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Bits: unix.PerfBitInherit,
	}
	for _, pid := range pids {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		if err != nil {
			return fds, err
		}
		for _, task := range tasks {
			tid, err := strconv.Atoi(filepath.Base(task))
			if err != nil {
				return fds, err
			}
			fd, err := unix.PerfEventOpen(&attr, tid, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
			if errors.Is(err, unix.ESRCH) {
				continue // the thread is gone
			}
			if err != nil {
				return fds, err
			}
			fds = append(fds, fd)
		}
	}
	return fds, nil
}

// read appends the counts, in the order of names. A nil tally has none.
func (t *tally) read(n []float64) ([]float64, error) {
	if t == nil {
		return n, nil
	}
	var eight [8]byte
	for _, fds := range t.events {
		sum := 0.0
		for _, fd := range fds {
			if _, err := unix.Read(fd, eight[:]); err != nil {
				return n, fmt.Errorf("counts of system calls: %w", err)
			}
			sum += float64(binary.NativeEndian.Uint64(eight[:]))
		}
		n = append(n, sum)
	}
	return n, nil
}

// perRequest names what read has appended to a meter's counters, for each of so
// many requests. What never happened is left out.
func (t *tally) perRequest(n []float64, requests float64) map[string]float64 {
	out := map[string]float64{}
	for i, name := range t.names {
		if x := n[counters+i] / requests; x > 0 {
			out[name] = x
		}
	}
	return out
}

func (t *tally) close() (err error) {
	if t == nil {
		return nil
	}
	for _, fds := range t.events {
		for _, fd := range fds {
			err = errors.Join(err, unix.Close(fd))
		}
	}
	return err
}

// A callsOf is system calls per request, by name.
type callsOf map[string]float64

// moves returns how many of them read and write.
func (c callsOf) moves() (reads, writes float64) {
	for name, n := range c {
		if isRead[name] {
			reads += n
		}
		if isWrite[name] {
			writes += n
		}
	}
	return reads, writes
}
