//go:build !linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// OS is the operating system the agent runs on, of which only Linux is known
// well enough.
type OS struct {
	HostnameFile string
}

// Hostname is the kernel's.
func (OS) Hostname() (string, error) { return os.Hostname() }

// SetHostname is not there on this system.
func (OS) SetHostname(context.Context, string) error {
	return fmt.Errorf("set hostname: %w", errors.ErrUnsupported)
}

// Monotonic is not known on this system, and 0.
func (OS) Monotonic() time.Duration { return 0 }

// Settle has nothing to wait for.
func (OS) Settle(context.Context) error { return nil }
