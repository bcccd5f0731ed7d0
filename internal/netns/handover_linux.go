package netns

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// HandOver has connections that are begun from now on go to the socket that came
// second to share the port (SocketOptions.ReusePort), rather than to whichever
// their hash says; as long as ln is alone they go on coming to it. So a process
// can close ln, after it has accepted what was begun before, without losing a
// connection to whoever takes over from it: what waits in the queue of a listener
// that is closed is reset.
//
// The sockets that share a port are numbered in the order of their listen, and
// when one is closed the last takes its number: with two generations of a process
// the older is 0. The rule outlives ln, and says the same of the next generation.
func HandOver(ln syscall.Conn) error {
	raw, err := ln.SyscallConn()
	if err != nil {
		return err
	}
	program := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 1}}
	var e error
	if err := raw.Control(func(fd uintptr) {
		e = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &unix.SockFprog{Len: 1, Filter: &program[0]})
	}); err != nil {
		return err
	}
	return os.NewSyscallError("setsockopt SO_ATTACH_REUSEPORT_CBPF", e)
}
