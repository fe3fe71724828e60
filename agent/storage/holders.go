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

// Holder is a process in whose mount namespace a dataset is mounted.
type Holder struct {
	PID     int
	Command string
	Dataset string
	At      string // mount point, as that process sees it
}

// BusyError is a dataset that cannot be destroyed because it is mounted somewhere.
type BusyError struct{ Holders []Holder }

// Error names the processes.
func (e *BusyError) Error() string {
	var all []string
	for i, h := range e.Holders {
		if i == 5 {
			all = append(all, fmt.Sprintf("and %d more", len(e.Holders)-i))
			break
		}
		all = append(all, fmt.Sprintf("process %d (%s) has %s mounted at %s", h.PID, h.Command, h.Dataset, h.At))
	}
	return "it is in use: " + strings.Join(all, ", ")
}

// Is says that it is EBUSY.
func (e *BusyError) Is(target error) bool { return target == syscall.EBUSY }

func isBusy(err error) bool { return errors.Is(err, syscall.EBUSY) }

// holders finds who has one of the datasets mounted, one process for each mount
// namespace; nil: nobody. A process that ends meanwhile holds nothing.
func (r *Roots) holders(sets map[string]map[string]string) error {
	proc := r.Proc
	if proc == "" {
		proc = "/proc"
	}
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil
	}
	seen := map[string]bool{}
	var found []Holder
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join(proc, e.Name())
		ns, err := os.Readlink(filepath.Join(dir, "ns", "mnt"))
		if err != nil || seen[ns] {
			continue
		}
		seen[ns] = true
		info, err := os.ReadFile(filepath.Join(dir, "mountinfo"))
		if err != nil {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join(dir, "comm")) // a message without it is as true
		for name, at := range mounted(string(info)) {
			if _, ok := sets[name]; ok {
				found = append(found, Holder{PID: pid, Command: strings.TrimSpace(string(comm)), Dataset: name, At: at})
			}
		}
	}
	if len(found) == 0 {
		return nil
	}
	slices.SortFunc(found, func(a, b Holder) int { return a.PID - b.PID })
	return &BusyError{found}
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
