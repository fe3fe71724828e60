//go:build !linux

package clock

import (
	"errors"
	"fmt"
	"time"
)

// OS is the operating system's clock, which only Linux lets us set.
type OS struct{}

// Now reads the clock, without a monotonic part.
func (OS) Now() time.Time { return time.Now().Round(0) }

// Step is not there on this system.
func (OS) Step(time.Duration) error { return fmt.Errorf("set clock: %w", errors.ErrUnsupported) }

// Slew is not there on this system.
func (OS) Slew(time.Duration) error { return fmt.Errorf("slew clock: %w", errors.ErrUnsupported) }
