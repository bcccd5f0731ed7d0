//go:build !linux

package netns

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
)

var errNotLinux = errors.New("network namespaces need Linux")

// Open needs Linux.
func Open(string) (*Netns, error) { return nil, errNotLinux }

// FromFD needs Linux.
func FromFD(int) (*Netns, error) { return nil, errNotLinux }

// Do calls f: there is only one namespace.
func (n *Netns) Do(f func() error) error {
	if n != nil {
		return errNotLinux
	}
	return f()
}

func (n *Netns) control(_ netip.Addr, _ use, o SocketOptions) control {
	if n == nil && o == (SocketOptions{}) {
		return nil
	}
	return func(string, string, syscall.RawConn) error { return errNotLinux }
}

// OriginalDestination needs Linux.
func OriginalDestination(*net.TCPConn) (netip.AddrPort, error) { return netip.AddrPort{}, errNotLinux }

// Redirected needs Linux.
func (n *Netns) Redirected(string, netip.AddrPort, netip.AddrPort) (netip.AddrPort, error) {
	return netip.AddrPort{}, errNotLinux
}

// HandOver needs Linux.
func HandOver(syscall.Conn) error { return errNotLinux }
