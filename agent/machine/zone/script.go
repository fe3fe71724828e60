package zone

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"nereid/agent/machine/mdata"
)

// Where the scripts of a zone are kept, below its root. The folder is root's.
const (
	scriptDir  = "var/lib/nereid"
	legacyData = "var/db/mdata-user-data" // where Joyent's images have user-data
	scriptMark = "run/nereid-user-script" // they ran since the zone started
)

// IsScript says whether Program is to run a zone's scripts when it is called by a name.
func IsScript(name string) bool { return name == scriptName }

// RunScripts runs what operators and the customer want run at each start of a zone:
// sdc:operator-script, then user-script. Called again before the next start it does
// nothing. dir has the zone's socket; root is /.
func RunScripts(ctx context.Context, root, dir string) error {
	f, err := os.OpenFile(filepath.Join(root, scriptMark), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("run scripts: %w", err)
	}
	f.Close()
	actx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	m, end, err := dialMetadata(actx, dir)
	if err != nil {
		return fmt.Errorf("run scripts: %w", err)
	}
	texts := map[string]string{}
	for _, key := range []string{"user-data", "sdc:operator-script", "user-script"} {
		text, err := m.Get(key)
		if err != nil && !errors.Is(err, mdata.ErrNotFound) {
			end()
			return fmt.Errorf("run scripts: get %s: %w", key, err)
		}
		texts[key] = text
	}
	end() // a script may run for as long as it likes
	if text := texts["user-data"]; text != "" {
		if err := place(filepath.Join(root, legacyData), text, 0o600); err != nil {
			return fmt.Errorf("write user-data: %w", err)
		}
	}
	var errs []error
	for _, key := range []string{"sdc:operator-script", "user-script"} {
		if texts[key] == "" {
			continue
		}
		path := filepath.Join(root, scriptDir, strings.TrimPrefix(key, "sdc:"))
		err := place(path, script(texts[key]), 0o700)
		if err == nil {
			err = execute(ctx, path)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		}
	}
	return errors.Join(errs...)
}

// script is one that the kernel takes: without line ends of another system.
func script(text string) string {
	if first, _, _ := strings.Cut(text, "\n"); strings.HasSuffix(first, "\r") {
		return strings.ReplaceAll(text, "\r\n", "\n")
	}
	return text
}

func place(path, text string, mode os.FileMode) error {
	return file{text: text, mode: mode, dir: 0o700}.put(path)
}

// execute runs a script with this process's output; one that names no interpreter is the
// shell's (execve(2), ENOEXEC).
func execute(ctx context.Context, path string) error {
	err := command(ctx, path).Run()
	if errors.Is(err, syscall.ENOEXEC) {
		err = command(ctx, "/bin/sh", path).Run()
	}
	return err
}

func command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	return c
}
