//go:build !linux

package storage

import (
	"errors"
	"fmt"
)

func memoryBytes() (int64, error) {
	return 0, fmt.Errorf("read the size of memory: %w", errors.ErrUnsupported)
}
