//go:build !linux

package machine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"nereid/agent/machine/zone"
	"nereid/api"
)

// Systemd is what Linux has.
type Systemd struct{}

var errHere = fmt.Errorf("zones of this kind are Linux's: %w", errors.ErrUnsupported)

// Close does nothing.
func (*Systemd) Close() {}

// Start implements Units.
func (*Systemd) Start(context.Context, string, string, api.Limits) error { return errHere }

// Run implements nothing.
func (*Systemd) Run(context.Context, string) error { return errHere }

// Stop implements Units.
func (*Systemd) Stop(context.Context, string) error { return errHere }

// Signal implements Units.
func (*Systemd) Signal(context.Context, string, string) error { return errHere }

// Limit implements Units.
func (*Systemd) Limit(context.Context, string, api.Limits) error { return errHere }

// Reset implements Units.
func (*Systemd) Reset(context.Context, string) (string, error) { return "", errHere }

// Watch tells of nothing.
func (*Systemd) Watch(context.Context, func(map[string]State), func(string, string, time.Time)) error {
	return errHere
}

// Prepare is not there on this system.
func Prepare(context.Context) error { return errHere }

// Leader is not there on this system.
func Leader(context.Context, string) (int, error) { return 0, errors.ErrUnsupported }

// Live is not there on this system.
func Live(context.Context, string, zone.Host) error { return errHere }

// Screenshot is not there on this system.
func (*Machines) Screenshot(context.Context, string) ([]byte, error) {
	return nil, errors.ErrUnsupported
}
