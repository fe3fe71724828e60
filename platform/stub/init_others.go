//go:build !linux

package stub

import (
	"context"
	"errors"
	"fmt"
)

// Boot needs Linux.
func Boot(context.Context) error {
	return fmt.Errorf("nereid-stub is the init of a Linux initrd: %w", errors.ErrUnsupported)
}
