package zds

import (
	"encoding/binary"
	"net"

	"golang.org/x/sys/unix"
)

// maxFDs is how many descriptors there is room for: enough to say how many came
// where one was meant. The kernel closes those beyond.
const maxFDs = 8

// receive reads a message, a *messageError saying that it is malformed.
func receive(conn *net.UnixConn) (message, error) {
	b, control := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*maxFDs))
	n, nc, flags, _, err := conn.ReadMsgUnix(b, control)
	fds := descriptors(control[:nc]) // even of an empty message, which reads as the end
	closeFD := func(fd int) { _ = unix.Close(fd) }
	if err != nil || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		for _, fd := range fds {
			closeFD(fd)
		}
	}
	switch {
	case err != nil:
		return message{}, err
	case flags&unix.MSG_TRUNC != 0:
		return message{}, malformed("the message is longer than %d bytes", maxMessage)
	case flags&unix.MSG_CTRUNC != 0:
		m, _ := decode(b[:n])
		return m, malformed("%v: descriptors were lost: there were more than %d, or this process may not open more", m.kind, maxFDs)
	}
	return parse(b[:n], fds, closeFD)
}

// descriptors returns the descriptors in control data, which are then the
// caller's.
func descriptors(control []byte) []int {
	var fds []int
	for len(control) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			break
		}
		if h.Level == unix.SOL_SOCKET && h.Type == unix.SCM_RIGHTS {
			for ; len(data) >= 4; data = data[4:] {
				fds = append(fds, int(int32(binary.NativeEndian.Uint32(data))))
			}
		}
		control = rest
	}
	return fds
}
