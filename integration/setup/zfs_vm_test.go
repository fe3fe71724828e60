//go:build vm

package setup

import (
	"testing"
	"time"

	"nereid/api"
	"nereid/integration/lab"
	"nereid/integration/lab/labtest"
)

// TestVMStorageOnRealZFS runs the storage package's own tests for real pools
// inside a server: setup, reset and refusals, cut before every single step.
func TestVMStorageOnRealZFS(t *testing.T) {
	const program = "/usr/lib/lab/storage.test"
	r := labtest.NewRack(t, map[string]string{program: labtest.TestProgram(t, "nereid/agent/storage")})
	m := r.Add(1, lab.BIOS, 1<<30, 1<<30)
	r.PowerOn(m)
	r.WaitState(m, api.StatePending)
	r.Shell(m, "systemctl stop nereid-agent")
	labtest.RunTests(t, m, "NEREID_TEST_DISKS=vda,vdb", program, 7, 34*time.Minute)
}
