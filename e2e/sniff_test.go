//go:build linux

package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"sync"

	"golang.org/x/sys/unix"
)

// A wire is what comes to a node by its eth0: IPv4 without options, and TCP.
type wire struct {
	r    *rig
	fd   int
	done sync.WaitGroup

	mu    sync.Mutex
	over  bool
	ports map[uint16]int // packets by destination port
	text  bytes.Buffer   // what was in them, one after the other
}

// sniff begins to read what comes to a node.
func (r *rig) sniff(node string) *wire {
	r.t.Helper()
	w := &wire{r: r, ports: map[uint16]int{}}
	err := r.WithinNode(node, func() (err error) {
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0x0008) // ETH_P_IP, in the network's order
		if err != nil {
			return err
		}
		return unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000})
	})
	if err != nil {
		r.t.Fatal(err)
	}
	w.done.Go(w.read)
	return w
}

// read reads until nothing has come for 200 ms after end.
func (w *wire) read() {
	buffer := make([]byte, 65536)
	for {
		n, _, err := unix.Recvfrom(w.fd, buffer, 0)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN) && !w.ended():
			continue
		case err != nil:
			return
		}
		packet := buffer[:n]
		if n < 40 || packet[0] != 0x45 || packet[9] != unix.IPPROTO_TCP {
			continue
		}
		w.mu.Lock()
		w.ports[binary.BigEndian.Uint16(packet[22:])]++
		w.text.Write(packet[40:])
		w.mu.Unlock()
	}
}

func (w *wire) ended() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.over
}

// end returns how many packets came, by port.
func (w *wire) end() map[uint16]int {
	w.mu.Lock()
	w.over = true
	w.mu.Unlock()
	w.done.Wait()
	_ = unix.Close(w.fd)
	return w.ports
}

// has reports whether a text was in what came. It is for after the end.
func (w *wire) has(text string) bool { return bytes.Contains(w.text.Bytes(), []byte(text)) }
