//go:build vm

package setup

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/integration/lab"
	"nereid/integration/lab/labtest"
)

// TestVMStorageOnRealZFS runs the storage package's own tests for real pools
// inside a server: setup, reset and refusals, cut before every single step.
func TestVMStorageOnRealZFS(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "storage.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-tags", "vm", "-ldflags=-s -w", "-o", bin, "nereid/agent/storage")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build.Args, err, out)
	}
	program, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	r := labtest.NewRack(t, map[string]string{"/usr/lib/lab/storage.test": string(program)})
	m := r.Add(1, lab.BIOS, 1<<30, 1<<30)
	r.PowerOn(m)
	r.WaitState(m, api.StatePending)
	r.Shell(m, "systemctl stop nereid-agent")
	ctx, cancel := context.WithTimeout(t.Context(), 35*time.Minute)
	defer cancel()
	out, err := m.Shell(ctx, "cd /tmp && NEREID_TEST_DISKS=vda,vdb /usr/lib/lab/storage.test -test.v -test.timeout 34m -test.run '^TestReal'")
	for line := range strings.Lines(out) {
		t.Log(strings.TrimRight(line, "\n"))
	}
	if err != nil {
		t.Error("the tests in the server failed")
	}
	if n := strings.Count(out, "--- PASS: TestReal"); n != 6 {
		t.Errorf("%d tests passed in the server: want 6", n)
	}
}
