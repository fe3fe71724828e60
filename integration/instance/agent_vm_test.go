//go:build vm

package instance

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"nereid/api"
	"nereid/integration/lab/labtest"
)

// TestVMAgentsZone runs the tests of the agent's package machine with real units and real
// ZFS in a server, virtual machines emulated, below a dataset of their own, while the server's agent is stopped.
func TestVMAgentsZone(t *testing.T) {
	r := labtest.Standard(t)
	m := r.Machines()[1]
	image, err := os.ReadFile(filepath.Join(labtest.Images(t), "tiny", "image.tar.zst"))
	if err != nil {
		t.Fatal(err)
	}
	program := r.Carry(m, "machine.test", labtest.TestProgram(t, "nereid/agent/machine"))
	guest, err := os.ReadFile("../../fixtures/guest/boot.bin")
	if err != nil {
		t.Fatal(err)
	}
	environment := "NEREID_TEST_POOL=zones NEREID_TEST_IMAGE=" + r.Carry(m, "image.tar.zst", string(image)) + " NEREID_TEST_GUEST=" + r.Carry(m, "boot.bin", string(guest))
	r.Shell(m, "systemctl stop nereid-agent")
	defer func() {
		r.Shell(m, "systemctl start nereid-agent")
		r.WaitState(m, api.StateRunning)
	}()
	labtest.RunTests(t, m, environment, program, 1, 9*time.Minute)
}
