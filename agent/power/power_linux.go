package power

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
)

// Manager asks systemd. The zero value runs systemctl(1) from the path.
type Manager struct {
	Systemctl string // program; empty: systemctl
}

// Reboot asks for a reboot; force skips the services.
func (m Manager) Reboot(ctx context.Context, force bool) error {
	return m.run(ctx, "reboot", force)
}

// Shutdown asks for power off; force skips the services.
func (m Manager) Shutdown(ctx context.Context, force bool) error {
	return m.run(ctx, "poweroff", force)
}

func (m Manager) run(ctx context.Context, verb string, force bool) error {
	name := m.Systemctl
	if name == "" {
		name = "systemctl"
	}
	args := []string{"--no-block", verb}
	if force {
		args = []string{"--force", verb}
	}
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ask systemd for %s: %w: %s", verb, err, bytes.TrimSpace(out))
	}
	return nil
}
