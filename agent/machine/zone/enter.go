package zone

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Denied are the system calls that a zone has not beside those that systemd-nspawn
// denies: they have been the way to the kernel for too many.
var Denied = []string{"io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd"}

// Dropped are the capabilities that a zone has not beside those that systemd-nspawn
// drops. They would hold in its own user namespace only, and nothing needs them.
var Dropped = []string{"CAP_MKNOD", "CAP_AUDIT_CONTROL", "CAP_AUDIT_WRITE"}

// ttyInside is where a zone has its metadata's terminal.
const ttyInside = "/dev/ttyS1"

// Arguments are systemd-nspawn's for a zone, whose folder is dir and whose root file
// system is at root. tty is the terminal of its metadata; signal is what shuts it down.
// NICs are none of them: systemd-nspawn fails at a zone's end, be it a reboot, when one
// that it was given is no more there.
func Arguments(h Host, dir, root, tty, signal string) []string {
	args := []string{
		"--quiet", "--keep-unit", "--register=yes", "--settings=no", "--link-journal=no",
		"--resolv-conf=off", "--timezone=off", "--console=read-only", "--private-network", "--notify-ready=yes",
		"--machine=" + h.UUID, "--uuid=" + h.UUID, "--hostname=" + h.Hostname, "--directory=" + root,
		fmt.Sprintf("--private-users=%d:65536", h.Base), "--private-users-ownership=map",
		"--kill-signal=" + signal,
		"--drop-capability=" + strings.Join(Dropped, ","),
		"--system-call-filter=~" + strings.Join(Denied, " "),
		"--bind-ro=" + filepath.Join(dir, insideDir) + ":" + Inner,
		"--bind-ro=" + Program + ":" + Inner + "/" + initFile,
		"--bind=" + tty + ":" + ttyInside,
	}
	return append(args, Inner+"/"+initFile)
}

// Environment is systemd-nspawn's: a zone's /tmp stays on its dataset, an image without
// os-release is one too, and no lock file is made beside the root, for which a full
// dataset has no room: the unit's name is lock enough.
func Environment(env []string) []string {
	return append(slices.Clone(env), "SYSTEMD_NSPAWN_TMPFS_TMP=0", "SYSTEMD_NSPAWN_CHECK_OS_RELEASE=0", "SYSTEMD_NSPAWN_LOCK=0")
}
