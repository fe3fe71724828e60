//go:build !linux

package platform

import (
	"errors"
	"fmt"
	"os/exec"
)

func tie(*exec.Cmd) {}

func flock(uintptr) (bool, error) {
	return false, fmt.Errorf("platforms are built on Debian: %w", errors.ErrUnsupported)
}
