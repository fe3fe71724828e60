//go:build !linux

package vm

import (
	"context"
	"errors"
	"fmt"
)

var errHere = fmt.Errorf("virtual machines of this kind are Linux's: %w", errors.ErrUnsupported)

// Run is not there on this system.
func Run(context.Context, string, string, func(Start) error) error { return errHere }

// Wait is not there on this system.
func Wait(context.Context, string) error { return errHere }

// Button is not there on this system.
func Button(context.Context, string) error { return errHere }

// Answers is not there on this system.
func Answers(context.Context, string) error { return errHere }

func (*Disk) open(context.Context) (int, error) { return 0, errHere }

func (*NIC) open() error { return errHere }

func closeFile(int) {}

// RunTPM is not there on this system.
func RunTPM(context.Context, string, string) error { return errHere }
