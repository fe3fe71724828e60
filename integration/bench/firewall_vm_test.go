//go:build vm

package bench

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/integration/lab"
	"nereid/integration/lab/labtest"
)

// TestBenchTracking measures the firewall with connection tracking on a bridge, which
// the kernel of the machine that tests may lack, in a server. There only the ratios
// mean something: the processor is emulated, and its clock counts instructions. No
// cache and no branch has a price there.
func TestBenchTracking(t *testing.T) {
	r := labtest.NewRack(t, map[string]string{"/usr/lib/lab/firewall.test": labtest.TestProgram(t, "nereid/agent/firewall")})
	m := r.AddSpec(lab.MachineSpec{Name: "cn1", MAC: "52:54:00:00:01:01", UUID: "4e455245-4944-4000-8000-000000000101", CountedTime: true})
	r.PowerOn(m)
	r.WaitState(m, api.StatePending)
	r.Shell(m, "systemctl stop nereid-agent")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	out, err := m.Shell(ctx, "cd /tmp && /usr/lib/lab/firewall.test -test.run '^$' -test.bench RealThroughput -test.benchtime 1x -test.timeout 30m 2>&1")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "Benchmark") {
			fmt.Print(line)
		}
	}
}
