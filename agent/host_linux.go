package agent

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// OS is the operating system the agent runs on. The zero value is the running
// system.
type OS struct {
	HostnameFile string // empty: /etc/hostname
}

// Hostname is the kernel's.
func (OS) Hostname() (string, error) { return os.Hostname() }

// SetHostname sets the kernel's and the file's; the root file system is in RAM,
// so that the file is for programs of this boot only.
func (o OS) SetHostname(_ context.Context, name string) error {
	path := o.HostnameFile
	if path == "" {
		path = "/etc/hostname"
	}
	if err := os.WriteFile(path, []byte(name+"\n"), 0o644); err != nil {
		return fmt.Errorf("set hostname: %w", err)
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("set hostname: %w", err)
	}
	return nil
}

// Monotonic is the kernel's CLOCK_MONOTONIC, which starts with it.
func (OS) Monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// Settle lets udev look at all block devices and waits for it. It takes the
// place of systemd-udev-settle, which waits for every device of the machine.
func (OS) Settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "udevadm", "trigger", "--subsystem-match=block", "--settle").CombinedOutput()
	if err != nil {
		return fmt.Errorf("udevadm trigger: %w %s", err, bytes.TrimSpace(out))
	}
	return nil
}
