//go:build !linux

package enter

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Run is not there on this system.
func Run(_ context.Context, _ string, _ int, _ Request, stdin io.ReadCloser, _, _ io.Writer, _ <-chan Size) (int, error) {
	_ = stdin.Close() // it is not read
	return statusFailed, fmt.Errorf("enter zone: %w", errors.ErrUnsupported)
}

// Console is not there on this system.
func Console(context.Context, string, bool, io.Writer, io.Writer) error {
	return fmt.Errorf("read console: %w", errors.ErrUnsupported)
}

// Inside is not there on this system.
func Inside() int { return statusFailed }

// Type is not there on this system.
func Type(context.Context, func() (int, error), io.Reader, *Size, <-chan Size) {}
