//go:build !linux

package network

import (
	"context"
	"errors"
	"fmt"
)

// Kernel is the system's network, which can be changed on Linux only.
type Kernel struct{}

// ErrUnsupported is what all methods return on this system.
var ErrUnsupported = fmt.Errorf("network: %w", errors.ErrUnsupported)

// Open is not there on this system.
func Open(string) (*Kernel, error) { return nil, ErrUnsupported }

// Close does nothing.
func (*Kernel) Close() error { return nil }

// Read is not there on this system.
func (*Kernel) Read(context.Context, ...string) (*State, error) { return nil, ErrUnsupported }

// Do is not there on this system.
func (*Kernel) Do(context.Context, Step) error { return ErrUnsupported }

// Table is not there on this system.
func (*Kernel) Table(context.Context, int32, int32) (Table, error) { return Table{}, ErrUnsupported }

// Change is not there on this system.
func (*Kernel) Change(context.Context, []Change) error { return ErrUnsupported }

// Watch is not there on this system.
func (*Kernel) Watch(context.Context, func(), func(Event)) error { return ErrUnsupported }
