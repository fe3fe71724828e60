//go:build vm

package fabric

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

// TestVMOnRealKernel runs the agent's own tests for what the machine that tests may
// lack in its kernel, inside a server: bonds, VLANs, and conntrack on a bridge.
func TestVMOnRealKernel(t *testing.T) {
	packages := []struct {
		name  string
		tests int // that must pass
	}{{"network", 6}, {"firewall", 4}}
	files := map[string]string{}
	for _, p := range packages {
		files["/usr/lib/lab/"+p.name+".test"] = testProgram(t, "nereid/agent/"+p.name)
	}
	r := labtest.NewRack(t, files)
	m := r.Add(1, lab.BIOS)
	r.PowerOn(m)
	r.WaitState(m, api.StatePending)
	r.Shell(m, "systemctl stop nereid-agent")
	for _, p := range packages {
		t.Run(p.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
			defer cancel()
			out, err := m.Shell(ctx, "cd /tmp && /usr/lib/lab/"+p.name+".test -test.v -test.timeout 14m -test.run '^TestReal' 2>&1")
			for line := range strings.Lines(out) {
				t.Log(strings.TrimRight(line, "\n"))
			}
			if err != nil {
				t.Error("the tests in the server failed")
			}
			if n := strings.Count(out, "--- PASS: TestReal"); n < p.tests {
				t.Errorf("%d tests passed in the server: want %d", n, p.tests)
			}
		})
	}
}

// testProgram builds the vm tests of a package.
func testProgram(t *testing.T, pkg string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-tags", "vm", "-ldflags=-s -w", "-o", bin, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build.Args, err, out)
	}
	b, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
