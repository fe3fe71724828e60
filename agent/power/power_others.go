//go:build !linux

package power

import (
	"context"
	"errors"
	"fmt"
)

// Manager is the service manager, which only Linux has in a form known here.
type Manager struct {
	Systemctl string
}

// Reboot is not there on this system.
func (Manager) Reboot(context.Context, bool) error {
	return fmt.Errorf("reboot: %w", errors.ErrUnsupported)
}

// Shutdown is not there on this system.
func (Manager) Shutdown(context.Context, bool) error {
	return fmt.Errorf("shut down: %w", errors.ErrUnsupported)
}
