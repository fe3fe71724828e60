//go:build !linux

package zone

import (
	"context"
	"errors"
	"fmt"
)

var errHere = fmt.Errorf("zones of this kind are Linux's: %w", errors.ErrUnsupported)

// Enter is not there on this system.
func Enter(string, func(string) error) error { return errHere }

// Give is not there on this system.
func Give(string, int) error { return errHere }

// EnterMachine is not there on this system.
func EnterMachine(string, string, string) error { return errHere }

// FailMachine is not there on this system.
func FailMachine(_ string, err error) error { return err }

// RanMachine is not there on this system.
func RanMachine(string) error { return errHere }

// Init is not there on this system.
func Init() error { return errHere }

// KeepConsoles is not there on this system.
func KeepConsoles(context.Context, string) error { return errHere }

// Answerer answers zones that are not there on this system.
type Answerer struct{ Changes Changes }

// Run is not there on this system.
func (*Answerer) Run(context.Context) error { return errHere }

// Watch is not there on this system.
func (Changes) Watch(context.Context, func(string)) error { return errHere }

// Process is not there on this system.
func Process(string) (int, error) { return 0, errHere }
