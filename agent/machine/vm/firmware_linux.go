package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// firmware waits for the volume of what the machine's UEFI remembers, and gives the group
// that may open it. One that was never used gets what a new machine has.
func (s *Start) firmware(ctx context.Context, template string) (groups []int, err error) {
	if s.Vars == nil {
		return nil, nil
	}
	v := Start{Machine: Machine{Disks: []Disk{*s.Vars}}}
	if groups, err = v.disks(ctx); err != nil {
		return nil, err
	}
	s.Vars = &v.Disks[0]
	if err := fill(s.Vars.Path, template); err != nil {
		return nil, fmt.Errorf("prepare the variables of UEFI: %w", err)
	}
	return groups, nil
}

// fill writes a template to a volume that has no variable store. Its first block, which
// says that it has one, is the last that is written.
func fill(path, template string) error {
	data, err := os.ReadFile(template)
	if err != nil {
		return err
	}
	if len(data) != VarsBytes || !isStore(data) {
		return fmt.Errorf("%s has %d bytes: want a variable store of %d", template, len(data), VarsBytes)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, 4096)
	if _, err := io.ReadFull(f, head); err != nil {
		return err
	}
	if isStore(head) {
		return nil
	}
	_, err = f.WriteAt(data[len(head):], int64(len(head)))
	err = errors.Join(err, f.Sync())
	if err == nil {
		_, err = f.WriteAt(data[:len(head)], 0)
		err = errors.Join(err, f.Sync())
	}
	return err
}

// isStore reports whether bytes begin a firmware volume (UEFI PI 1.8, volume 3, 3.2.1.1:
// its signature is at 40).
func isStore(b []byte) bool { return len(b) >= 44 && bytes.Equal(b[40:44], []byte("_FVH")) }
