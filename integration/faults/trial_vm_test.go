//go:build vm

package faults

import (
	"path/filepath"
	"strings"
	"testing"

	"nereid/api"
	"nereid/integration/lab"
	"nereid/integration/lab/labtest"
)

// TestVMPlatformTrialFallsBack assigns a platform that resets the machine before
// its agent can sync. After three attempts the head node must give the previous
// platform and say why, with nobody touching the server.
func TestVMPlatformTrialFallsBack(t *testing.T) {
	r := labtest.Standard(t)
	m := r.Machines()[1]
	good := r.WaitState(m, api.StateRunning)

	const stamp = "20260102T000000Z"
	broken := filepath.Join(t.TempDir(), "broken")
	err := lab.Derive(t.Context(), r.Platform, broken, stamp, map[string]string{
		"/usr/lib/systemd/system/lab-break.service": "[Unit]\nDefaultDependencies=no\nBefore=nereid-agent.service\n" +
			"[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo lab-break >/dev/console; echo b >/proc/sysrq-trigger; sleep 60'\n",
		"/etc/systemd/system/sysinit.target.wants/lab-break.service": "-> /usr/lib/systemd/system/lab-break.service",
	})
	if err != nil {
		t.Fatal(err)
	}
	nereid := func(args ...string) {
		t.Helper()
		cmd := r.Exec(t.Context(), filepath.Join(r.Bin, "nereid"), append([]string{"--server", r.Socket()}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("nereid %v: %v\n%s", args, err, out)
		}
	}
	nereid("platform", "key", "add", "broken", filepath.Join(broken, "manifest.pub"))
	r.Undo("platform", "key", "delete", "broken")
	nereid("platform", "import", broken)
	r.Undo("platform", "delete", stamp, "--yes")
	nereid("platform", "assign", stamp, m.Spec.UUID)
	r.Undo("platform", "assign", "default", m.Spec.UUID)
	nereid("server", "reboot", m.Spec.UUID, "--yes")

	back := r.Wait(m, "running the previous platform in a new boot", func(s api.Server) bool {
		return s.State == api.StateRunning && s.BootID != good.BootID && s.Platform.Failed == stamp
	})
	if back.Platform.Running != r.Stamp {
		t.Errorf("runs %s: want %s", back.Platform.Running, r.Stamp)
	}
	if !strings.Contains(back.Platform.Reason, stamp) {
		t.Errorf("the reason does not name the platform that failed: %q", back.Platform.Reason)
	}
	t.Logf("reason: %s", back.Platform.Reason)
	if back.Report.Pools[0].GUID != good.Report.Pools[0].GUID {
		t.Error("the pool changed")
	}
	trials := 0
	boots, err := r.Client().Boots(t.Context(), m.Spec.UUID)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range boots {
		if b.Platform == stamp {
			trials++
		}
	}
	if trials != 3 {
		t.Errorf("%d boots of the broken platform: want 3", trials)
	}
}
