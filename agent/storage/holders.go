package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Holder is a process in whose mount namespace a dataset is mounted, or that has a volume
// open.
type Holder struct {
	PID     int
	Command string
	Dataset string
	At      string // mount point, as that process sees it; empty: a volume's device is open
}

// BusyError is a dataset that cannot be destroyed because it is mounted or open somewhere.
type BusyError struct{ Holders []Holder }

// Error names the processes.
func (e *BusyError) Error() string {
	var all []string
	for i, h := range e.Holders {
		if i == 5 {
			all = append(all, fmt.Sprintf("and %d more", len(e.Holders)-i))
			break
		}
		how := "mounted at " + h.At
		if h.At == "" {
			how = "open"
		}
		all = append(all, fmt.Sprintf("process %d (%s) has %s %s", h.PID, h.Command, h.Dataset, how))
	}
	return "it is in use: " + strings.Join(all, ", ")
}

// Is says that it is EBUSY.
func (e *BusyError) Is(target error) bool { return target == syscall.EBUSY }

func isBusy(err error) bool { return errors.Is(err, syscall.EBUSY) }

// udevWorker is what systemd-udevd calls those of its processes that follow its rules. They
// open volumes when these come, for a moment.
const udevWorker = "(udev-worker)"

// holders finds who has one of the datasets mounted, one process for each mount
// namespace, or one of the volumes open, but for udev; nil: nobody. A process that ends
// meanwhile holds nothing.
func (r *Roots) holders(sets map[string]map[string]string) error {
	proc := r.Proc
	if proc == "" {
		proc = "/proc"
	}
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil
	}
	seen, devices := map[string]bool{}, r.devices(sets)
	var found []Holder
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join(proc, e.Name())
		for _, name := range opened(dir, devices) {
			if c := command(dir); c != udevWorker {
				found = append(found, Holder{PID: pid, Command: c, Dataset: name})
			}
		}
		ns, err := os.Readlink(filepath.Join(dir, "ns", "mnt"))
		if err != nil || seen[ns] {
			continue
		}
		seen[ns] = true
		info, err := os.ReadFile(filepath.Join(dir, "mountinfo"))
		if err != nil {
			continue
		}
		for name, at := range mounted(string(info)) {
			if _, ok := sets[name]; ok {
				found = append(found, Holder{PID: pid, Command: command(dir), Dataset: name, At: at})
			}
		}
	}
	if len(found) == 0 {
		return nil
	}
	slices.SortFunc(found, func(a, b Holder) int { return a.PID - b.PID })
	return &BusyError{found}
}

// command is a process's name; a message without it is as true.
func command(dir string) string {
	comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
	return strings.TrimSpace(string(comm))
}

// devices are the numbers of the devices of the volumes among datasets, and their names.
func (r *Roots) devices(sets map[string]map[string]string) map[uint64]string {
	found := map[uint64]string{}
	for name, p := range sets {
		if p["type"] == "volume" {
			if n, ok := deviceOf(filepath.Join(r.volumes(), name)); ok {
				found[n] = name
			}
		}
	}
	return found
}

// deviceOf is the number of the device that a path leads to, if it does.
func deviceOf(path string) (uint64, bool) {
	info, err := os.Stat(path)
	if err != nil || info.Mode()&os.ModeDevice == 0 {
		return 0, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return uint64(st.Rdev), true
}

// opened are the names of those of the devices that a process has open, each once.
func opened(dir string, devices map[uint64]string) []string {
	if len(devices) == 0 {
		return nil
	}
	fds, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return nil
	}
	var names []string
	for _, fd := range fds {
		if n, ok := deviceOf(filepath.Join(dir, "fd", fd.Name())); ok && devices[n] != "" && !slices.Contains(names, devices[n]) {
			names = append(names, devices[n])
		}
	}
	slices.Sort(names)
	return names
}

// mounted reads /proc/PID/mountinfo (proc_pid_mountinfo(5)): ZFS's datasets and where
// they are.
func mounted(info string) map[string]string {
	found := map[string]string{}
	for line := range strings.Lines(info) {
		before, after, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if ok && len(f) > 4 && len(g) > 1 && g[0] == "zfs" {
			found[g[1]] = f[4]
		}
	}
	return found
}
