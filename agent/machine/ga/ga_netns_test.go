//go:build netns

package ga

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestNetNSAgent: a real qemu-ga, that of this machine, runs programs, and takes and gives
// files. It is never asked to freeze: the file systems would be this machine's.
func TestNetNSAgent(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "ga")
	cmd := exec.Command("/usr/sbin/qemu-ga", "--method", "unix-listen", "--path", socket, "--statedir", dir, "--pidfile", filepath.Join(dir, "pid"))
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	a := &Agent{Turn: make(chan struct{}, 1), Dial: func(ctx context.Context) (c net.Conn, err error) {
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if c, err = (&net.Dialer{}).DialContext(ctx, "unix", socket); err == nil {
				break
			}
		}
		return c, err
	}}
	run := func(p Program, in string) (int, string) {
		t.Helper()
		var out, errs strings.Builder
		status, err := a.Run(t.Context(), p, strings.NewReader(in), &out, &errs)
		if err != nil {
			t.Fatal(err)
		}
		return status, out.String() + errs.String()
	}
	if status, out := run(Program{Command: []string{"sh", "-c", "cat; echo $X >&2; exit 5"}, Env: []string{"X=y"}}, "hello\n"); status != 5 || out != "hello\ny\n" {
		t.Errorf("%d, %q", status, out)
	}
	if status, _ := run(Program{Command: []string{"sh", "-c", "kill -KILL $$"}}, ""); status != 137 {
		t.Errorf("killed: %d", status)
	}
	_, err := a.Run(t.Context(), Program{Command: []string{"/no/such"}}, strings.NewReader(""), nil, nil)
	if err == nil || !strings.Contains(err.Error(), "refused guest-exec") {
		t.Errorf("a program that is not there: %v", err)
	}
	long := bytes.Repeat([]byte("0123\x00\xff\n"), 30000)
	path := filepath.Join(dir, "file")
	if err := a.Push(t.Context(), path, 0o600, bytes.NewReader(long)); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, long) {
		t.Errorf("%d bytes became %d, %v", len(long), len(b), err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	var back bytes.Buffer
	if err := a.Pull(t.Context(), path, &back); err != nil || !bytes.Equal(back.Bytes(), long) {
		t.Errorf("%d bytes came back as %d, %v", len(long), back.Len(), err)
	}
	if err := a.Push(t.Context(), filepath.Join(dir, "no", "file"), 0, bytes.NewReader(long)); err == nil {
		t.Error("a file came into a folder that is not there")
	}
	if left, err := filepath.Glob(filepath.Join(dir, "file*")); err != nil || len(left) != 1 {
		t.Errorf("left are %v, %v", left, err)
	}
}
