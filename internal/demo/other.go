//go:build !linux

package demo

import (
	"context"
	"errors"
	"io"
)

// Options say how the demo runs.
type Options struct {
	Program     string
	Output      io.Writer
	Color, Keep bool
}

// Run says that there is no demo on this system.
func Run(context.Context, Options) error {
	return errors.New("demo: it needs Linux, where every address of 127/8 is this machine")
}
