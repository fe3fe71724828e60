//go:build !linux

package images

import (
	"errors"
	"fmt"
)

// freeBytes is not known here; a full disk is then noticed by the write.
func freeBytes(string) (int64, error) {
	return 0, fmt.Errorf("free space: %w", errors.ErrUnsupported)
}
