//go:build netns

package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/integration/lab"
	"nereid/integration/lab/labtest"
)

// TestBenchIdleServer prints what an agent costs over five idle minutes at this
// machine's own speed: the one in QEMU (TestBenchIdle) is measured with every
// instruction emulated, where there is no KVM. This server has a network, but
// neither disks nor ZFS.
func TestBenchIdleServer(t *testing.T) {
	r := labtest.NewServerRack(t)
	s := r.AddServer(filepath.Join(r.Bin, "nereid-agent"), lab.ServerSpec{
		Name: "cn1", UUID: "4e455245-4944-4000-8000-000000000301",
		NICs: []lab.ServerNIC{{MAC: "52:54:00:00:03:01", Bridge: "admin0"}, {MAC: "52:54:00:00:03:02", Bridge: "data0"}},
	})
	if err := s.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.WaitUUID(s.Spec.UUID, "pending", func(v api.Server) bool { return v.State == api.StatePending })
	for _, args := range [][]string{
		{"server", "approve", s.Spec.UUID, "--hostname", "cn1"},
		{"nictag", "create", "external"},
		{"network", "create", "external", "--nic-tag", "external", "--subnet", "198.51.100.0/24", "--gateway", "198.51.100.1", "--start", "198.51.100.10"},
		{"nictag", "provide", "cn1", s.Spec.NICs[1].MAC, "external"},
		{"nic", "create", "--network", "external", "--on", "cn1",
			"--owner", "a11ce000-0000-4000-8000-000000000001", "--belongs-to", "11111111-1111-4111-8111-111111111111", "--belongs-to-type", "other"},
	} {
		cmd := r.Exec(t.Context(), filepath.Join(r.Bin, "nereid"), append([]string{"--server", r.Socket()}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("nereid %v: %v\n%s", args, err, out)
		}
	}
	r.WaitUUID(s.Spec.UUID, "at its spec", func(v api.Server) bool {
		return v.Revision != "" && v.NetworkApplied
	})
	pid, err := s.AgentPID()
	if err != nil {
		t.Fatal(err)
	}
	const idle = 5 * time.Minute
	<-time.After(time.Minute) // what the start left to do is not idleness
	before := cpuSeconds(t, pid)
	<-time.After(idle) // what is measured is the passing of time
	after := cpuSeconds(t, pid)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rss, _ := strings.Cut(string(status), "VmRSS:")
	rss, _, _ = strings.Cut(rss, "\n")
	fmt.Printf("agent over %v idle, not emulated: %.4f %% of a core (%.3f s), RSS %s\n",
		idle, (after-before)/idle.Seconds()*100, after-before, strings.TrimSpace(rss))
}

// cpuSeconds is what all threads of a process have had of a CPU.
func cpuSeconds(t *testing.T, pid int) float64 {
	t.Helper()
	sum := 0.0
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range tasks {
		if b, err := os.ReadFile(name); err == nil {
			ns, _ := strconv.ParseFloat(strings.Fields(string(b))[0], 64)
			sum += ns / 1e9
		}
	}
	return sum
}
