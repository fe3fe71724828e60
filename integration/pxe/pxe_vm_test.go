//go:build vm

package pxe

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/integration/lab"
	"nereid/integration/lab/labtest"
)

const gib = 1 << 30

// TestVMPowerOnToRunning is the main path with both firmwares, and what a server
// must survive once it runs.
func TestVMPowerOnToRunning(t *testing.T) {
	r := labtest.NewRack(t)
	bios, uefi := r.Add(1, lab.BIOS, 4*gib, 4*gib), r.Add(2, lab.UEFI, 4*gib)
	r.PowerOn(bios)
	r.PowerOn(uefi)
	for _, m := range []*lab.Machine{bios, uefi} {
		r.Approve(m)
		s := r.Setup(m, api.SetupSpec{})
		checkBoot(t, r.Legs(m), m.Spec.Firmware)
		if s.Sysinfo == nil || s.Sysinfo.Firmware != string(m.Spec.Firmware) || len(s.Sysinfo.Disks) != len(m.Spec.Disks) {
			t.Errorf("%s: inventory: %+v", m.Spec.Name, s.Sysinfo)
		}
		t.Logf("%s: memory used %s", m.Spec.Name, r.Shell(m, `awk '/MemTotal/{t=$2} /MemAvailable/{a=$2} END {printf "%d MiB of %d MiB", (t-a)/1024, t/1024}' /proc/meminfo`))
		t.Logf("%s: agent %s", m.Spec.Name, r.Shell(m, `grep VmRSS /proc/$(systemctl show -p MainPID --value nereid-agent)/status`))
	}

	t.Run("mirror for two disks, single for one", func(t *testing.T) {
		if out := r.Shell(bios, "zpool status zones"); !strings.Contains(out, "mirror-0") {
			t.Errorf("zpool status: %s", out)
		}
		if out := r.Shell(uefi, "zpool status zones"); strings.Contains(out, "mirror") {
			t.Errorf("zpool status: %s", out)
		}
	})
	t.Run("secrets", func(t *testing.T) { checkSecrets(t, r, bios) })
	t.Run("mounts are the system's", func(t *testing.T) { mountsAreShared(t, r, bios) })
	t.Run("agent killed and restarted", func(t *testing.T) { agentRestarts(t, r, bios) })
	t.Run("reboot", func(t *testing.T) { reboot(t, r, bios) })
	t.Run("factory reset", func(t *testing.T) { reset(t, r, uefi) })
	t.Run("shutdown", func(t *testing.T) { shutdown(t, r, bios) })
}

// checkBoot wants every leg of a boot in its record, and no refusal.
func checkBoot(t *testing.T, b api.Boot, fw lab.Firmware) {
	t.Helper()
	// The BIOS machine's NIC ROM is iPXE itself: no firmware's DISCOVER, no TFTP.
	want := []api.BootStage{api.StageIPXEDiscover, api.StageScript, api.StageKernel, api.StageInitrd, api.StageConfig,
		api.StageStub, api.StageRoot, api.StageSwitchRoot, api.StageEnrol, api.StageFirstSync}
	if fw == lab.UEFI {
		want = append(want, api.StageDiscover, api.StageTFTP)
	}
	for _, st := range want {
		if !slices.ContainsFunc(b.Events, func(e api.BootEvent) bool { return e.Stage == st }) {
			t.Errorf("boot %s (%s) has no %s event", b.ID, fw, st)
		}
	}
	for _, e := range b.Events {
		if e.Stage == api.StageRefused || e.Stage == api.StageFailed {
			t.Errorf("boot %s (%s): %s: %s", b.ID, fw, e.Stage, e.Detail)
		}
	}
	if len(b.Legs) == 0 {
		t.Errorf("boot %s (%s) has no waterfall", b.ID, fw)
	}
}

// mountsAreShared: what the agent mounts inside its sandbox is seen outside of it. The
// shell that looks is no child of the agent; PID 1's list of mounts is the system's.
func mountsAreShared(t *testing.T, r *labtest.Rack, m *lab.Machine) {
	t.Helper()
	out := r.Shell(m, "grep -c ' /zones/config zfs ' /proc/1/mounts; ls /zones/config | grep -c agent.key; "+
		"readlink /proc/1/ns/mnt /proc/$(systemctl show --value -p MainPID nereid-agent)/ns/mnt | sort -u | wc -l; "+
		"systemctl show --value -p LockPersonality,RestrictRealtime nereid-agent | sort -u")
	if got := strings.Fields(out); !slices.Equal(got, []string{"1", "1", "1", "yes"}) {
		t.Errorf("dataset in PID 1's mounts, key in it, mount namespaces of PID 1 and agent, sandbox: %q; want 1, 1, 1, yes", got)
	}
}

// checkSecrets looks for the boot's token where it must not be.
func checkSecrets(t *testing.T, r *labtest.Rack, m *lab.Machine) {
	var conf api.BootConfig
	if err := json.Unmarshal([]byte(r.Shell(m, "cat /run/nereid/boot.json")), &conf); err != nil || conf.Token == "" {
		t.Fatalf("boot.json: %v", err)
	}
	if mode := r.Shell(m, "stat -c '%a %U' /run/nereid/boot.json"); mode != "600 root" {
		t.Errorf("boot.json is %s: want 600 root", mode)
	}
	if mode := r.Shell(m, "stat -c '%a %U' /zones/config/agent.key"); mode != "600 root" {
		t.Errorf("agent.key is %s: want 600 root", mode)
	}
	for _, place := range []string{"/proc/cmdline", "/proc/*/cmdline", "/run/log/journal", "/var/log"} {
		if n := r.Shell(m, "grep -rlaF '"+conf.Token+"' "+place+" 2>/dev/null | grep -v self | wc -l"); n != "0" && !strings.HasPrefix(place, "/proc/*") {
			t.Errorf("the token is in %s", place)
		}
	}
	for _, f := range []string{r.HeadnodeLog(), m.Console(), filepath.Join(r.DataDir(), "headnode.db")} {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), conf.Token) {
			t.Errorf("the token is in %s", f)
		}
	}
}

// agentRestarts: killing, restarting or replacing the agent changes nothing on the server.
func agentRestarts(t *testing.T, r *labtest.Rack, m *lab.Machine) {
	before := r.WaitState(m, api.StateRunning)
	const upgrade = "cd /usr/lib/nereid && cp nereid-agent new && echo >>new && mv new nereid-agent && systemctl restart nereid-agent"
	for _, how := range []string{"systemctl kill -s KILL nereid-agent", "systemctl restart nereid-agent", upgrade} {
		pid := r.Shell(m, "systemctl show -p MainPID --value nereid-agent")
		r.Shell(m, how)
		after := r.Wait(m, "seen again after "+how, func(s api.Server) bool {
			return s.State == api.StateRunning && s.LastSeen != nil && s.LastSeen.After(*before.LastSeen)
		})
		if now := r.Shell(m, "systemctl show -p MainPID --value nereid-agent"); now == pid {
			t.Errorf("%s: the agent is still process %s", how, pid)
		}
		if after.BootID != before.BootID || after.Report.Pools[0].GUID != before.Report.Pools[0].GUID || len(after.Alerts) != 0 {
			t.Errorf("%s changed the server: %+v", how, after)
		}
		before = after
	}
}

// reboot: pool and identity come back without an operator.
func reboot(t *testing.T, r *labtest.Rack, m *lab.Machine) {
	before := r.WaitState(m, api.StateRunning)
	r.Shell(m, "echo kept > /zones/config/lab-file; sync")
	if err := r.Client().RebootServer(t.Context(), m.Spec.UUID); err != nil {
		t.Fatal(err)
	}
	after := r.Wait(m, "running in a new boot", func(s api.Server) bool {
		return s.State == api.StateRunning && s.BootID != before.BootID
	})
	if after.Report.Pools[0].GUID != before.Report.Pools[0].GUID {
		t.Errorf("pool %s became %s", before.Report.Pools[0].GUID, after.Report.Pools[0].GUID)
	}
	if got := r.Shell(m, "cat /zones/config/lab-file"); got != "kept" {
		t.Errorf("the pool lost a file: %q", got)
	}
	if len(after.Alerts) != 0 {
		t.Errorf("alerts after a reboot: %q", after.Alerts)
	}
	checkBoot(t, r.Legs(m), m.Spec.Firmware)
}

// reset: the pool goes, and nothing but the server's hostname starts it.
func reset(t *testing.T, r *labtest.Rack, m *lab.Machine) {
	before := r.WaitState(m, api.StateRunning)
	if err := r.Client().ResetServer(t.Context(), m.Spec.UUID, api.ServerReset{Hostname: "not-" + before.Hostname}); err == nil {
		t.Fatal("a reset with the wrong hostname was accepted")
	}
	if err := r.Client().ResetServer(t.Context(), m.Spec.UUID, api.ServerReset{Hostname: before.Hostname}); err != nil {
		t.Fatal(err)
	}
	after := r.Wait(m, "approved and without a pool in a new boot", func(s api.Server) bool {
		return s.State == api.StateApproved && s.BootID != before.BootID && s.Report != nil && len(s.Report.Pools) == 0
	})
	if after.SetUp {
		t.Error("still counted as set up")
	}
	for _, d := range after.Sysinfo.Disks {
		if d.Content != "" {
			t.Errorf("disk %s still carries %s", d.Name, d.Content)
		}
	}
}

// shutdown: the machine powers itself off, which is not mistaken for silence, and
// comes back when it is powered on.
func shutdown(t *testing.T, r *labtest.Rack, m *lab.Machine) {
	before := r.WaitState(m, api.StateRunning)
	if err := r.Client().ShutdownServer(t.Context(), m.Spec.UUID); err != nil {
		t.Fatal(err)
	}
	select {
	case <-m.Off():
	case <-time.After(labtest.Limit):
		t.Fatal("the machine is still on")
	}
	r.WaitState(m, api.StateOff)
	r.PowerOn(m)
	after := r.Wait(m, "running in a new boot", func(s api.Server) bool {
		return s.State == api.StateRunning && s.BootID != before.BootID
	})
	if after.Report.Pools[0].GUID != before.Report.Pools[0].GUID || len(after.Alerts) != 0 {
		t.Errorf("after the shutdown: pools %+v, alerts %q", after.Report.Pools, after.Alerts)
	}
}
