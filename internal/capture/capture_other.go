//go:build !linux

package capture

import (
	"errors"
	"net/netip"

	"github.com/waystone-mesh/waystone/internal/netns"
)

var errLinux = errors.New("capture: needs Linux")

// Apply needs Linux.
func Apply(*netns.Netns, Options) error { return errLinux }

// Verify needs Linux.
func Verify(*netns.Netns, Options) error { return errLinux }

// Remove needs Linux.
func Remove(*netns.Netns) error { return errLinux }

// A Host needs Linux.
type Host struct{}

// OpenHost needs Linux.
func OpenHost(*netns.Netns) (*Host, error) { return nil, errLinux }

// RemoveHost needs Linux.
func RemoveHost(*netns.Netns) error { return errLinux }

// Set needs Linux.
func (*Host) Set([]netip.Addr) error { return errLinux }

// Add needs Linux.
func (*Host) Add(...netip.Addr) error { return errLinux }

// Remove needs Linux.
func (*Host) Remove(...netip.Addr) error { return errLinux }

// Verify needs Linux.
func (*Host) Verify() error { return errLinux }

// There needs Linux.
func There(*netns.Netns) (bool, error) { return false, errLinux }
