package platform

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// tailLines is how much of a failed program's output an error carries.
const tailLines = 12

// maxCommand is how much of a command line the log gets; some name hundreds of files.
const maxCommand = 4000

// runner runs programs for one stage: output goes to the stage's log, its last
// line to the progress display.
type runner struct {
	log  io.Writer
	path string // of the log, for error messages
	tick func(line string)
	env  []string
}

// run runs a program in the machine's own namespaces.
func (r *runner) run(ctx context.Context, name string, args ...string) error {
	return r.exec(ctx, nil, nil, name, args...)
}

// output runs a program and returns what it printed on its standard output.
func (r *runner) output(ctx context.Context, name string, args ...string) (string, error) {
	var out bytes.Buffer
	err := r.exec(ctx, nil, &out, name, args...)
	return out.String(), err
}

// isolated runs a program in a mount and PID namespace of its own: mounts made
// there are seen nowhere else, and both end when the program does.
func (r *runner) isolated(ctx context.Context, name string, args ...string) error {
	u := []string{"--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "--", name}
	return r.exec(ctx, nil, nil, "unshare", append(u, args...)...)
}

func (r *runner) exec(ctx context.Context, in io.Reader, out io.Writer, name string, args ...string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	fmt.Fprintf(r.log, "\n$ %.*s\n", maxCommand, name+" "+strings.Join(args, " "))
	tail := &lastLines{tick: r.tick}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(cleanEnv(os.Environ()), r.env...)
	cmd.Stdin = in
	both := io.MultiWriter(r.log, tail)
	cmd.Stdout, cmd.Stderr = both, both
	if out != nil {
		cmd.Stdout = out
	}
	cmd.WaitDelay = 5 * time.Second
	tie(cmd)
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("run %s: %w", filepath.Base(name), ctx.Err())
	}
	return fmt.Errorf("run %s: %w; its last lines (all of them: %s):\n%s", filepath.Base(name), err, r.path, tail.text())
}

// cleanEnv drops what would leak the machine's locale and settings into a build.
func cleanEnv(env []string) []string {
	kept := []string{"LC_ALL=C.UTF-8", "TZ=UTC", "DEBIAN_FRONTEND=noninteractive", "INITRD=No"}
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		lower := strings.ToLower(name)
		switch {
		case name == "PATH", name == "HOME", name == "TMPDIR", strings.HasSuffix(lower, "_proxy"),
			strings.HasPrefix(name, "GO"), strings.HasPrefix(name, "SSL_CERT"), name == "XDG_CACHE_HOME":
			kept = append(kept, kv)
		}
	}
	return kept
}

// lastLines keeps the end of what is written to it.
type lastLines struct {
	lines   []string
	partial []byte
	tick    func(string)
}

func (l *lastLines) Write(p []byte) (int, error) {
	l.partial = append(l.partial, p...)
	for {
		i := bytes.IndexAny(l.partial, "\r\n")
		if i < 0 {
			break
		}
		if line := strings.TrimSpace(string(l.partial[:i])); line != "" {
			l.add(line)
		}
		l.partial = l.partial[i+1:]
	}
	if len(l.partial) > bufio.MaxScanTokenSize {
		l.partial = nil
	}
	return len(p), nil
}

func (l *lastLines) add(line string) {
	l.lines = append(l.lines, line)
	if len(l.lines) > tailLines {
		l.lines = l.lines[1:]
	}
	if l.tick != nil {
		l.tick(line)
	}
}

func (l *lastLines) text() string {
	lines := l.lines
	if rest := strings.TrimSpace(string(l.partial)); rest != "" {
		lines = append(lines, rest)
	}
	return "  " + strings.Join(lines, "\n  ")
}
