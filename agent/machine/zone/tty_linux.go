package zone

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A zone has its metadata at /dev/ttyS1, where guests of virtual machines have theirs. It
// is the end of a pseudo terminal, whose other end is the standard input of systemd-nspawn,
// which does not read it: the terminal is there for as long as the zone is, whoever else
// comes and goes. Who answers takes it from there (pidfd_getfd(2)).

// process is one, told from others that had its number.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since the boot (proc_pid_stat(5), starttime)

	// Socket is where a virtual machine's metadata is asked for; empty: at the terminal of
	// a zone.
	Socket string `json:"socket,omitempty"`
}

// startOf says when a process was started.
func startOf(pid int) (uint64, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	// The second field is a name in parentheses, which may have any characters.
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(f) < 20 {
		return 0, fmt.Errorf("read /proc/%d/stat: %d fields", pid, len(f))
	}
	return strconv.ParseUint(f[19], 10, 64)
}

// openTerminal makes the metadata's terminal of a zone, whose root's user ID on the server
// is owner, and makes it standard input. It gives the path of the zone's end.
func openTerminal(owner uint32) (string, error) {
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open /dev/ptmx: %w", err)
	}
	defer unix.Close(master)
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return "", fmt.Errorf("unlock terminal: %w", err)
	}
	n, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return "", fmt.Errorf("number of terminal: %w", err)
	}
	path := "/dev/pts/" + strconv.Itoa(n)
	peer, err := peerOf(master)
	if err != nil {
		return "", err
	}
	defer unix.Close(peer)
	if err := rawTerminal(peer); err != nil {
		return "", err
	}
	if err := errors.Join(unix.Chown(path, int(owner), int(owner)), unix.Chmod(path, 0o600)); err != nil {
		return "", fmt.Errorf("give %s to the zone: %w", path, err)
	}
	if err := unix.Dup3(master, 0, 0); err != nil {
		return "", err
	}
	return path, nil
}

// peerOf opens the other end of a terminal (ioctl_tty(2), TIOCGPTPEER).
func peerOf(master int) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return -1, fmt.Errorf("open terminal's other end: %w", errno)
	}
	return int(fd), nil
}

// rawTerminal has a terminal pass all bytes as they are (termios(3), cfmakeraw).
func rawTerminal(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return fmt.Errorf("settings of terminal: %w", err)
	}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return fmt.Errorf("settings of terminal: %w", err)
	}
	return nil
}

// leaveProcess says that this process becomes a zone's nspawn, or a machine's QEMU.
func leaveProcess(dir, uuid, socket string) error {
	start, err := startOf(os.Getpid())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return replace(filepath.Join(dir, uuid), 0o600, 0, process{os.Getpid(), start, socket})
}

// Process is the systemd-nspawn of a zone that runs.
func Process(uuid string) (pid int, err error) {
	p, pidfd, err := processOf(filepath.Join(Metadata, uuid))
	if err != nil {
		return 0, err
	}
	return p.PID, unix.Close(pidfd)
}

func readProcess(entry string) (p process, err error) {
	data, err := os.ReadFile(entry)
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return p, fmt.Errorf("read %s: %w", entry, err)
	}
	return p, nil
}

// processOf finds a zone's systemd-nspawn. What the descriptor is of is that one.
func processOf(entry string) (p process, pidfd int, err error) {
	if p, err = readProcess(entry); err != nil {
		return p, -1, err
	}
	pidfd, err = unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return p, -1, fmt.Errorf("process %d: %w", p.PID, err)
	}
	if start, err := startOf(p.PID); err != nil || start != p.Start {
		unix.Close(pidfd)
		return p, -1, fmt.Errorf("process %d is another: %w", p.PID, errors.Join(err, unix.ESRCH))
	}
	return p, pidfd, nil
}

// terminalOf takes the metadata's terminal from a zone's nspawn.
func terminalOf(entry string) (*os.File, error) {
	p, pidfd, err := processOf(entry)
	if err != nil {
		return nil, err
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, 0, 0)
	if err != nil {
		return nil, fmt.Errorf("take terminal from process %d: %w", p.PID, err)
	}
	if _, err := unix.IoctlGetInt(fd, unix.TIOCGPTN); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("standard input of process %d is no terminal's end: %w", p.PID, err)
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "metadata"), nil
}
