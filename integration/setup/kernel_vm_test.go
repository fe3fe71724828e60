//go:build vm

package setup

import (
	"testing"
	"time"

	"nereid/api"
	"nereid/integration/lab"
	"nereid/integration/lab/labtest"
)

// TestVMOnRealKernel runs the agent's own tests for what the machine that tests may
// lack in its kernel, in a server whose agent is stopped: bonds, VLANs, conntrack on a
// bridge; and pools on real ZFS, with setup, reset and refusals, cut before every single
// step.
func TestVMOnRealKernel(t *testing.T) {
	packages := []struct {
		name        string
		tests       int // that must pass
		environment string
		limit       time.Duration
	}{
		{"network", 6, "", 20 * time.Minute},
		{"firewall", 5, "", 20 * time.Minute},
		{"storage", 6, "NEREID_TEST_DISKS=vda,vdb", 34 * time.Minute},
	}
	files := map[string]string{}
	for _, p := range packages {
		files["/usr/lib/lab/"+p.name+".test"] = labtest.TestProgram(t, "nereid/agent/"+p.name)
	}
	r := labtest.NewRack(t, files)
	m := r.Add(1, lab.BIOS, 1<<30, 1<<30)
	r.PowerOn(m)
	r.WaitState(m, api.StatePending)
	r.Shell(m, "systemctl stop nereid-agent")
	for _, p := range packages {
		t.Run(p.name, func(t *testing.T) {
			labtest.RunTests(t, m, p.environment, "/usr/lib/lab/"+p.name+".test", p.tests, p.limit)
		})
	}
}
