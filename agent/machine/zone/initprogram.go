package zone

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// inits are where an image's init is looked for.
var inits = []string{"/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/sbin/init"}

// errNoInit says that an image has nothing to start.
var errNoInit = errors.New("the image has none of " + strings.Join(inits, ", ") + " and names no program")

// IsInit says whether a program that an image names is an init, which becomes a zone's
// first process itself. Any other is that process's child.
func IsInit(program string) bool {
	base := filepath.Base(program)
	return filepath.IsAbs(program) && (base == "init" || base == "systemd")
}

// FindInit finds the init of a root file system. real is what it is behind symbolic
// links, which lead nowhere but into the root.
func FindInit(root string) (path, real string, err error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return "", "", fmt.Errorf("find init: %w", err)
	}
	defer r.Close()
	for _, path := range inits {
		real, err := resolve(r, path)
		if err != nil {
			continue
		}
		return path, real, nil
	}
	return "", "", fmt.Errorf("find init: %w", errNoInit)
}

// resolve follows symbolic links within a root as the kernel would with it as "/".
func resolve(r *os.Root, path string) (string, error) {
	rest := strings.Split(strings.TrimPrefix(filepath.Clean("/"+path), "/"), "/")
	at := "/"
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if name == ".." {
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		info, err := r.Lstat(strings.TrimPrefix(next, "/"))
		if err != nil {
			return "", err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		if links++; links > 40 {
			return "", fmt.Errorf("%s: too many symbolic links", path)
		}
		target, err := r.Readlink(strings.TrimPrefix(next, "/"))
		if err != nil {
			return "", err
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		var parts []string
		for p := range strings.SplitSeq(target, "/") {
			if p != "" && p != "." {
				parts = append(parts, p)
			}
		}
		rest = append(parts, rest...)
	}
	return at, nil
}

// StopSignal is the signal on which an init program shuts the zone down, by its name.
func StopSignal(real string) string {
	switch name := filepath.Base(real); {
	case name == "systemd":
		return "SIGRTMIN+3" // systemd(1), "Signals"
	case strings.HasPrefix(name, "busybox"):
		return "SIGUSR2" // power off (busybox, init.c)
	case name == "init":
		return "SIGRTMIN+4" // sysvinit since 3.10
	case name == "runit" || name == "runit-init":
		return "SIGCONT"
	}
	return "SIGTERM"
}
