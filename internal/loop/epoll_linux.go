package loop

import (
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// An epoll waits on an epoll descriptor and is the poller of a loop on Linux.
//
// A blocking epoll_wait would be a system call during which the scheduler takes
// the loop's processor away after 20 µs and gives it back on return: at a
// thousand requests a second that was 40 % of their cost. Instead the epoll
// descriptor itself, which is readable when any descriptor in it is ready, is
// parked in Go's own poller, as a socket would be, and epoll_wait is only ever
// asked what is ready now. (Blocking without telling the scheduler is cheaper
// still, and hangs the garbage collector.)
type epoll struct {
	// Immutable.
	fd    int
	file  *os.File // fd, in Go's poller
	raw   syscall.RawConn
	posts *os.File // an eventfd: wake writes it
	event int      // its descriptor
	ready func(fd uintptr) bool

	// Owned by the loop.
	wires  []*fdWire // by descriptor
	events [128]syscall.EpollEvent
	n      int           // how many of events are to be handled
	armed  time.Duration // when file's deadline is; -1: none
}

const edge = 1 << 31 // EPOLLET; syscall has it as a negative number

// newPoller returns what a loop waits on.
func newPoller(portable bool) (poller, error) {
	if portable {
		return newChanPoller(), nil
	}
	return newEpoll()
}

func newEpoll() (*epoll, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("loop: epoll_create1: %w", err)
	}
	_ = syscall.SetNonblock(fd, true) // makes os.NewFile register it
	p := &epoll{fd: fd, file: os.NewFile(uintptr(fd), "epoll"), armed: -1}
	p.ready = func(uintptr) bool {
		p.poll()
		return p.n > 0
	}
	if p.raw, err = p.file.SyscallConn(); err == nil {
		err = p.file.SetReadDeadline(time.Time{}) // fails when it is not registered
	}
	if err != nil {
		_ = p.file.Close()
		return nil, fmt.Errorf("loop: park epoll: %w", err)
	}
	// Blocking, so that it is not registered too; writing it blocks only when
	// nobody has looked for 2⁶⁴ wakes.
	ev, _, errno := syscall.RawSyscall(syscall.SYS_EVENTFD2, 0, syscall.O_CLOEXEC, 0)
	if errno != 0 {
		_ = p.file.Close()
		return nil, fmt.Errorf("loop: eventfd: %w", errno)
	}
	p.event = int(ev)
	p.posts = os.NewFile(ev, "eventfd")
	// Edge triggered: every write is an event and nobody has to read it.
	if err := p.control(syscall.EPOLL_CTL_ADD, p.event, syscall.EPOLLIN|edge); err != nil {
		p.close()
		return nil, fmt.Errorf("loop: epoll_ctl: %w", err)
	}
	return p, nil
}

func (p *epoll) control(op, fd int, events uint32) error {
	return syscall.EpollCtl(p.fd, op, fd, &syscall.EpollEvent{Events: events, Fd: int32(fd)})
}

// poll asks what is ready now. A RawSyscall is right because it never waits.
func (p *epoll) poll() {
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(p.fd),
			uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), 0, 0, 0)
		if errno != syscall.EINTR {
			p.n = int(n)
			if errno != 0 {
				p.n = 0
			}
			return
		}
	}
}

func (p *epoll) wait(l *Loop, idle bool, until time.Duration) int {
	p.poll()
	if p.n > 0 || !idle || until >= 0 && until <= time.Since(l.epoch) || !l.park() {
		return p.n
	}
	l.meter.idle()
	p.arm(l, until)
	if p.raw.Read(p.ready) != nil { // the deadline
		p.armed = 0
		p.n = 0
	}
	return p.n
}

// arm sets the deadline of the wait. One that is too early is left alone: it
// costs one wake, where putting it off would cost one call for each batch.
func (p *epoll) arm(l *Loop, until time.Duration) {
	switch {
	case p.armed == 0: // has passed, and Go's poller would say so for ever
	case until < 0, p.armed > 0 && p.armed <= until:
		return
	}
	var t time.Time
	if p.armed = until; until >= 0 {
		t = l.epoch.Add(until)
	}
	_ = p.file.SetReadDeadline(t)
}

func (p *epoll) dispatch(l *Loop, n int) {
	for i := range n {
		if fd := int(p.events[i].Fd); fd != p.event && p.wires[fd] != nil {
			p.wires[fd].event(p.events[i].Events)
			l.breathe()
		}
	}
}

var one = []byte{1, 0, 0, 0, 0, 0, 0, 0}

func (p *epoll) wake() { _, _ = p.posts.Write(one) }

func (p *epoll) close() {
	_ = p.file.Close()
	_ = p.posts.Close()
}

// open takes the descriptor of a TCP socket out of Go's poller.
func (p *epoll) open(s *Socket) wire {
	tc, ok := s.nc.(*net.TCPConn)
	if !ok {
		return nil
	}
	_ = tc.SetNoDelay(true)
	raw, err := tc.SyscallConn()
	if err != nil {
		return nil
	}
	var fd uintptr
	var errno syscall.Errno
	err = raw.Control(func(old uintptr) {
		fd, _, errno = syscall.RawSyscall(syscall.SYS_FCNTL, old, syscall.F_DUPFD_CLOEXEC, 0)
	})
	if err != nil || errno != 0 {
		return nil // out of descriptors: this one has to do with goroutines
	}
	w := &fdWire{p: p, s: s, fd: int(fd)}
	if w.control(syscall.EPOLL_CTL_ADD, syscall.EPOLLIN|syscall.EPOLLRDHUP) != nil {
		_ = syscall.Close(w.fd)
		return nil
	}
	_ = tc.Close()
	for len(p.wires) <= w.fd {
		p.wires = append(p.wires, nil)
	}
	p.wires[w.fd] = w
	return w
}

// An fdWire is the wire of a descriptor that belongs to the loop alone.
type fdWire struct {
	p      *epoll
	s      *Socket
	fd     int
	events uint32 // what epoll watches for
	off    bool   // not in epoll at all
	hup    bool   // the event at hand says that the end is near
	closed bool
}

func (w *fdWire) control(op int, events uint32) error {
	err := w.p.control(op, w.fd, events)
	if err == nil {
		w.events, w.off = events, op == syscall.EPOLL_CTL_DEL
	}
	return err
}

func (w *fdWire) watch(in, out bool) {
	var events uint32
	if in {
		events = syscall.EPOLLIN | syscall.EPOLLRDHUP
	}
	if out {
		events |= syscall.EPOLLOUT
	}
	switch {
	case events == w.events && !w.off, events == 0 && w.off:
	case w.off:
		_ = w.control(syscall.EPOLL_CTL_ADD, events)
	default:
		_ = w.control(syscall.EPOLL_CTL_MOD, events)
	}
}

// event handles what epoll says. A hang-up and an error are told whether watched
// for or not, and for as long as they last.
func (w *fdWire) event(ev uint32) {
	if ev&syscall.EPOLLOUT != 0 {
		w.s.writable()
	}
	const in = syscall.EPOLLIN | syscall.EPOLLRDHUP
	if w.events&in != 0 && ev&(in|syscall.EPOLLHUP|syscall.EPOLLERR) != 0 {
		w.hup = ev&(syscall.EPOLLRDHUP|syscall.EPOLLHUP|syscall.EPOLLERR) != 0
		w.s.arrives()
		w.hup = false
		return
	}
	if ev&(syscall.EPOLLHUP|syscall.EPOLLERR) != 0 {
		w.hungUp()
	}
}

// hungUp handles the end of a socket that is not being read. If there is
// something to read it waits, out of epoll, until reading resumes. If there is
// not, nothing can be lost.
func (w *fdWire) hungUp() {
	if w.s.paused && w.unread() {
		if !w.off {
			_ = w.control(syscall.EPOLL_CTL_DEL, 0)
		}
		return
	}
	errno, err := syscall.GetsockoptInt(w.fd, syscall.SOL_SOCKET, syscall.SO_ERROR)
	switch {
	case err != nil || errno == 0 && w.s.paused:
		// Both directions have ended, and the driver does not know yet.
		_ = w.control(syscall.EPOLL_CTL_DEL, 0)
	case errno == 0:
		w.s.fail(w.s.opError("read", syscall.ECONNRESET))
	default:
		w.s.fail(w.s.opError("read", syscall.Errno(errno)))
	}
}

// unread reports whether the kernel holds bytes that were not read.
func (w *fdWire) unread() bool {
	var n int32
	_, _, errno := syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(w.fd), syscall.TIOCINQ, uintptr(unsafe.Pointer(&n)))
	return errno == 0 && n > 0
}

func (w *fdWire) read(p []byte) (int, error) {
	for {
		w.s.loop.meter.reads++
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(w.fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		switch errno {
		case 0:
			if n == 0 {
				return 0, io.EOF
			}
			return int(n), nil
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, errWait
		default:
			return 0, errno
		}
	}
}

// more reports whether another read in this batch is worth while even though
// the last one was short: then the end can be told together with the last bytes.
func (w *fdWire) more() bool { return w.hup }

func (w *fdWire) write(p []byte) (int, error) {
	for {
		w.s.loop.meter.writes++
		n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(w.fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, nil
		default:
			return 0, errno
		}
	}
}

func (w *fdWire) closeWrite() { _ = syscall.Shutdown(w.fd, syscall.SHUT_WR) }

func (w *fdWire) close() {
	w.p.wires[w.fd] = nil
	if !w.off {
		_ = w.control(syscall.EPOLL_CTL_DEL, 0)
	}
	_ = syscall.Close(w.fd)
	w.closed = true
}

func (w *fdWire) abort() {
	_ = syscall.SetsockoptLinger(w.fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	w.close()
}
