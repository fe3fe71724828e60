package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"nereid/api"
	"nereid/images"
	"nereid/integration/lab"
)

// targetRAM is what a running platform may use, in bytes (README).
const targetRAM = 700e6

// measure boots a platform once in a server of 2 GB and prints how much RAM is in
// use after its first sync. The figure is kept in a file beside the platform, and
// printed from there until the platform changes.
func (d *demo) measure(ctx context.Context, platform string) error {
	_, m, err := images.ReadPlatform(platform)
	if err != nil {
		return fmt.Errorf("measure RAM: %w", err)
	}
	file := filepath.Clean(platform) + ".ram"
	kept, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("measure RAM: %w", err)
	}
	if line, ok := strings.CutPrefix(string(kept), m.Stamp+" "); ok {
		fmt.Print(line)
		return nil
	}
	d.say("platform %s is booted once, to measure the RAM it uses", m.Stamp)
	if err := d.rack.StartHeadnode(ctx); err != nil {
		return err
	}
	if _, err := lab.ImportPlatform(ctx, d.rack, filepath.Join(d.bin, "nereid"), platform, io.Discard); err != nil {
		return err
	}
	s, err := d.firstSync(ctx)
	if err != nil {
		return err
	}
	used, verdict := s.Sysinfo.MemoryBytes-s.Usage.MemoryFreeBytes, "met"
	if used > targetRAM {
		verdict = "MISSED"
	}
	line := fmt.Sprintf("RAM used by the running platform: %d MB of %d MB (target under %d MB: %s)\n",
		used/1e6, s.Sysinfo.MemoryBytes/1e6, int64(targetRAM/1e6), verdict)
	fmt.Print(line)
	if err := os.WriteFile(file, []byte(m.Stamp+" "+line), 0o644); err != nil {
		return fmt.Errorf("measure RAM: %w", err)
	}
	return nil
}

// firstSync boots a server, lets it in and waits for its first sync.
func (d *demo) firstSync(ctx context.Context) (api.Server, error) {
	m, err := d.rack.AddMachine(ctx, lab.MachineSpec{
		Name: "cn-ram", Firmware: lab.BIOS, MemoryMB: 2048, MAC: "52:54:00:00:00:20", UUID: "4e455245-4944-4000-8000-000000000020",
	})
	if err != nil {
		return api.Server{}, err
	}
	if err := m.PowerOn(ctx); err != nil {
		return api.Server{}, err
	}
	c := d.rack.Client()
	if err := lab.WaitState(ctx, c, m.Spec.UUID, api.StatePending, 5*time.Minute); err != nil {
		return api.Server{}, err
	}
	if err := c.ApproveServer(ctx, m.Spec.UUID, ""); err != nil {
		return api.Server{}, err
	}
	return lab.WaitServer(ctx, c, m.Spec.UUID, "in sync", 2*time.Minute, func(s api.Server) bool {
		return s.State == api.StateApproved && s.Usage != nil && s.Usage.MemoryFreeBytes > 0 && s.Sysinfo != nil
	})
}
