package platform

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// tool is a program a build runs, and the Debian package that has it.
type tool struct{ program, pkg string }

// tools lists what a build needs of the machine.
var tools = []tool{
	{"apt-get", "apt"},
	{"chroot", "coreutils"},
	{"cp", "coreutils"},
	{"depmod", "kmod"},
	{"dpkg-deb", "dpkg"},
	{"mksquashfs", "squashfs-tools"},
	{"mmdebstrap", "mmdebstrap"},
	{"mount", "mount"},
	{"unshare", "util-linux"},
	{"xz", "xz-utils"},
	{"zstd", "zstd"},
}

// MachinePackages lists the Debian packages a build needs on the machine it runs on.
func MachinePackages() []string {
	pkgs := []string{"ca-certificates", "debian-archive-keyring"}
	for _, t := range tools {
		pkgs = append(pkgs, t.pkg)
	}
	slices.Sort(pkgs)
	return slices.Compact(pkgs)
}

// checkMachine reports everything the machine lacks, and the command that mends it.
func checkMachine() error {
	if os.Geteuid() != 0 {
		return errors.New("platform build: making a root filesystem with its owners and devices needs root; run it as root")
	}
	var missing []string
	for _, t := range tools {
		if _, err := exec.LookPath(t.program); err != nil {
			missing = append(missing, t.pkg)
		}
	}
	if _, err := os.Stat(archiveKeyring); err != nil {
		missing = append(missing, "debian-archive-keyring")
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	missing = slices.Compact(missing)
	return fmt.Errorf("platform build: the machine lacks %s; run: apt-get install -y --no-install-recommends %s",
		strings.Join(missing, ", "), strings.Join(missing, " "))
}
