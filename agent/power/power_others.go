//go:build !linux

package power

import (
	"context"
	"errors"
	"fmt"
)

// Manager is the service manager, which only Linux has in a form known here.
type Manager struct {
	Socket string
}

// Reboot is not there on this system.
func (Manager) Reboot(context.Context, bool) error {
	return fmt.Errorf("reboot: %w", errors.ErrUnsupported)
}

// Shutdown is not there on this system.
func (Manager) Shutdown(context.Context, bool) error {
	return fmt.Errorf("shut down: %w", errors.ErrUnsupported)
}

// Started is not known on this system.
func (Manager) Started(context.Context) (float64, error) {
	return 0, fmt.Errorf("ask when the service manager started: %w", errors.ErrUnsupported)
}
