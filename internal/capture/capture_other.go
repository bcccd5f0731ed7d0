//go:build !linux

package capture

import (
	"errors"

	"github.com/waystone-mesh/waystone/internal/netns"
)

var errLinux = errors.New("capture: needs Linux")

// Apply needs Linux.
func Apply(*netns.Netns, Options) error { return errLinux }

// Verify needs Linux.
func Verify(*netns.Netns, Options) error { return errLinux }

// Remove needs Linux.
func Remove(*netns.Netns) error { return errLinux }
