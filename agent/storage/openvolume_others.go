//go:build !linux

package storage

import (
	"context"
	"fmt"
	"os"
)

// OpenVolume implements Volumes on Linux only.
func (ZFS) OpenVolume(_ context.Context, name string) (*os.File, error) {
	return nil, fmt.Errorf("open volume %s: %w", name, supported())
}
