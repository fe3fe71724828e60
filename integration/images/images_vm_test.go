//go:build vm

package images

import (
	"context"
	"strings"
	"testing"
	"time"

	"nereid/integration/lab/labtest"
)

// TestVMImages runs the agent's own tests of images and instances in a server, beside
// what else is in its pool: a tar and a ZFS stream imported, broken and killed half way,
// clones with quotas and specs, and drops. The server's agent runs meanwhile.
func TestVMImages(t *testing.T) {
	r := labtest.Standard(t)
	m := r.Machines()[0]
	program := r.Carry(m, "storage.test", labtest.TestProgram(t, "nereid/agent/storage"))
	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
	defer cancel()
	out, err := m.Shell(ctx, "cd /run && NEREID_TEST_POOL=zones "+program+" -test.v -test.timeout 8m -test.run '^TestVMPoolRoots$' 2>&1")
	for line := range strings.Lines(out) {
		t.Log(strings.TrimRight(line, "\n"))
	}
	if err != nil || !strings.Contains(out, "--- PASS: TestVMPoolRoots") {
		t.Errorf("the tests in the server failed: %v", err)
	}
}
