//go:build vm

package fabric

import (
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
	}{{"network", 6}, {"firewall", 5}}
	files := map[string]string{}
	for _, p := range packages {
		files["/usr/lib/lab/"+p.name+".test"] = labtest.TestProgram(t, "nereid/agent/"+p.name)
	}
	r := labtest.NewRack(t, files)
	m := r.Add(1, lab.BIOS)
	r.PowerOn(m)
	r.WaitState(m, api.StatePending)
	r.Shell(m, "systemctl stop nereid-agent")
	for _, p := range packages {
		t.Run(p.name, func(t *testing.T) {
			labtest.RunTests(t, m, "", "/usr/lib/lab/"+p.name+".test", p.tests, 20*time.Minute)
		})
	}
}
