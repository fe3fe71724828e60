package labtest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nereid/integration/lab"
)

// TestProgram builds the vm tests of a package, to be put into a platform and run
// in a server.
func TestProgram(t *testing.T, pkg string) string {
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

// RunTests runs the TestReal tests of a program in a server, of which at least want
// must pass and none fail within limit. environment is put before the command.
func RunTests(t *testing.T, m *lab.Machine, environment, program string, want int, limit time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit+time.Minute)
	defer cancel()
	out, err := m.Shell(ctx, "cd /tmp && "+environment+" "+program+" -test.v -test.timeout "+limit.String()+" -test.run '^TestReal' 2>&1")
	for line := range strings.Lines(out) {
		t.Log(strings.TrimRight(line, "\n"))
	}
	if err != nil {
		t.Error("the tests in the server failed")
	}
	if n := strings.Count(out, "--- PASS: TestReal"); n < want {
		t.Errorf("%d tests passed in the server: want %d", n, want)
	}
}
