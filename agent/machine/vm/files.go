package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Program is QEMU, on a server whose platform has it.
const Program = "/usr/bin/qemu-system-x86_64"

// Names in an instance's folder, beside those that all instances have.
const (
	startFile = "machine.json"
	seedFile  = "seed.img"
	runDir    = "vm" // QEMU's own: its sockets, and the variables of its firmware
)

// Start is what a machine's unit starts.
type Start struct {
	Machine
	UID uint32 // QEMU's user and group, which nobody else has
	Log string // file that its first serial port's output is appended to; empty: ConsoleLog
}

// RunDir is where a machine has its sockets, in the folder of its instance.
func RunDir(dir string) string { return filepath.Join(dir, runDir) }

// Seed is the path of a machine's NoCloud seed, in the folder of its instance.
func Seed(dir string) string { return filepath.Join(dir, seedFile) }

// Leave leaves what a machine is started with next in the folder of its instance.
func Leave(dir string, s Start) error {
	data, err := json.Marshal(s)
	if err == nil {
		err = replace(filepath.Join(dir, startFile), data)
	}
	if err != nil {
		return fmt.Errorf("leave files of machine %s: %w", s.UUID, err)
	}
	return nil
}

func replace(path string, data []byte) error {
	next := path + ".next"
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// Read reads what Leave left; fs.ErrNotExist when there is nothing.
func Read(dir string) (s Start, err error) {
	data, err := os.ReadFile(filepath.Join(dir, startFile))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("read what machine is started: %w", err)
	}
	return s, nil
}

// LeaveSeed leaves the bytes of a seed for the user that reads it. One that a machine has
// open gets them at once: cloud-init reads it anew at each boot.
func LeaveSeed(dir string, uid uint32, image []byte) error {
	path := Seed(dir)
	st, err := os.Stat(path)
	if err == nil && st.Size() == int64(len(image)) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt(image, 0)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			return fmt.Errorf("write seed: %w", err)
		}
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write seed: %w", err)
	}
	next := path + ".next"
	if err = os.WriteFile(next, image, 0o600); err == nil {
		err = os.Chmod(next, 0o440)
	}
	if err == nil && os.Geteuid() == 0 {
		err = os.Chown(next, 0, int(uid))
	}
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return fmt.Errorf("write seed: %w", err)
	}
	return nil
}

// Overhead is how much memory a QEMU may have beyond that of its guest, in MiB.
func Overhead(memoryMiB int, kvm bool) int {
	n := 160 + memoryMiB/50
	if !kvm {
		n += EmulatorMiB
	}
	return n
}

// Limit bounds each of what a machine's unit does before and after its QEMU runs. It is
// within the unit's own: what is said when it has passed is said by us.
const Limit = 58 * time.Second

// ButtonPause is how long a guest is given before its power button is pressed again: one
// that still boots does not hear it.
const ButtonPause = 5 * time.Second
