package zone

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// rootMount is where a zone's dataset is mounted, in the mount namespace of its unit
// alone: mounts that all of the server sees cost its service manager much.
const rootMount = "/run/nereid/root"

// nspawn is the program that becomes the zone.
const nspawn = "/usr/bin/systemd-nspawn"

// Enter becomes the zone whose folder is dir. It returns only when it cannot, and then
// leaves the reason. What a crash left of an earlier start goes first, and each NIC's pair
// is there: the pair of a zone that ran before went with it, and rejoin makes it anew and
// puts it into its bridge, protected, where the agent has had it in one. One that rejoin
// cannot make is the agent's to make, and to give to the zone then; rejoin says why.
func Enter(dir string, rejoin func(mac string) error) error {
	return leaveReason(dir, enter(dir, rejoin))
}

// leaveReason keeps an error for the agent to tell of.
func leaveReason(dir string, err error) error {
	if werr := os.WriteFile(filepath.Join(dir, errorFile), []byte(err.Error()), 0o600); werr != nil {
		return errors.Join(err, werr)
	}
	return err
}

func enter(dir string, rejoin func(mac string) error) error {
	h, err := Read(dir)
	if err != nil {
		return fmt.Errorf("enter zone: %w", err)
	}
	if err := prepare(dir, h, rejoin); err != nil {
		return err
	}
	if h.NICs, err = begin(dir, h, func(n NIC) bool { l, err := there(Peer(n.MAC)); return err == nil && l != nil }); err != nil {
		return fmt.Errorf("enter zone: %w", err)
	}
	// Before there is a namespace of the zone's mounts, which would stay with it.
	if err := serve(dir); err != nil {
		return fmt.Errorf("enter zone: %w", err)
	}
	// The namespace is this thread's, which is the one that becomes nspawn.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter zone: unshare mounts: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("enter zone: keep mounts to ourselves: %w", err)
	}
	if err := os.MkdirAll(rootMount, 0o755); err != nil {
		return fmt.Errorf("enter zone: %w", err)
	}
	if err := unix.Mount(h.Dataset, rootMount, "zfs", unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("enter zone: mount dataset %s: %w", h.Dataset, err)
	}
	root := filepath.Join(rootMount, "root")
	signal := h.Signal
	if h.Init == "" {
		_, real, err := FindInit(root)
		if err != nil {
			return fmt.Errorf("enter zone: %w", err)
		}
		if signal == "" {
			signal = StopSignal(real)
		}
	} else if signal == "" {
		signal = "SIGTERM"
	}
	if err := openConsole(h.UUID); err != nil {
		return fmt.Errorf("enter zone: %w", err)
	}
	tty, err := openTerminal(h.Base)
	if err == nil {
		err = leaveProcess(Metadata, h.UUID, "")
	}
	if err != nil {
		return fmt.Errorf("enter zone: its metadata's terminal: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, enteredFile), nil, 0o600); err != nil {
		return fmt.Errorf("enter zone: %w", err)
	}
	argv := append([]string{nspawn}, Arguments(h, dir, root, tty, signal)...)
	if err := unix.Exec(nspawn, argv, Environment(os.Environ())); err != nil {
		return fmt.Errorf("enter zone: execute %s: %w", nspawn, err)
	}
	return nil
}

// openConsole makes the zone's pipe standard output. It is open for reading too: a
// keeper that is away is no end of it, as that would be the zone's end.
func openConsole(uuid string) error {
	path := filepath.Join(Consoles, uuid)
	if err := makePipe(path); err != nil {
		return fmt.Errorf("console: %w", err)
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("console: open %s: %w", path, err)
	}
	if err := unix.Dup3(fd, 1, 0); err != nil {
		return fmt.Errorf("console: %w", err)
	}
	return nil
}

// makePipe makes a named pipe, where there is none.
func makePipe(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make pipe %s: %w", path, err)
	}
	return nil
}

// ran notes that a zone runs, and has the out-of-memory killer spare its nspawn, whose
// end would be the zone's. What runs in the zone keeps the score that it has.
func ran(dir string, pid int) error {
	if err := os.WriteFile(filepath.Join(dir, startedFile), nil, 0o600); err != nil {
		return fmt.Errorf("note that the zone runs: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, upFile), []byte(strconv.Itoa(pid)), 0o600); err != nil {
		return fmt.Errorf("note that the zone runs: %w", err)
	}
	if err := os.Remove(filepath.Join(dir, errorFile)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("note that the zone runs: %w", err)
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("-1000"), 0); err != nil {
		return fmt.Errorf("spare nspawn: %w", err)
	}
	return nil
}
