//go:build vm

package setup

import (
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"nereid/api"
	"nereid/integration/lab"
	"nereid/integration/lab/labtest"
)

// TestVMPowerCutDuringSetup cuts the power in each phase of a setup, as soon as the
// server reports the phase. Every next boot must resume or say what is wrong; the disk
// with somebody else's data must stay as it is, to the last byte.
func TestVMPowerCutDuringSetup(t *testing.T) {
	r := labtest.NewRack(t)
	const gib = 1 << 30
	m := r.AddSpec(lab.MachineSpec{
		Name: "cn1", MAC: "52:54:00:00:01:01", UUID: "4e455245-4944-4000-8000-000000000101",
		Disks:    []int64{2 * gib, 2 * gib, gib},
		DiskIOPS: 200, // on a fast host, too, a phase is not over before its report is here
	})
	foreign := foreignDisk(t, m.Disk(2))
	r.PowerOn(m)
	r.Approve(m)

	// Without a word about it, the foreign disk makes the whole request fail.
	if err := r.Client().SetupServer(t.Context(), m.Spec.UUID, api.SetupSpec{Pool: "zones"}); err != nil {
		t.Fatal(err)
	}
	refused := r.Wait(m, "refusing the foreign disk", func(s api.Server) bool {
		return s.Report != nil && s.Report.Setup != nil && s.Report.Setup.Error != ""
	})
	if e := refused.Report.Setup.Error; !strings.Contains(e, "vdc") {
		t.Errorf("the refusal does not name the disk: %q", e)
	}
	t.Logf("refusal: %s", refused.Report.Setup.Error)
	same(t, m.Disk(2), foreign)

	if err := r.Client().SetupServer(t.Context(), m.Spec.UUID, api.SetupSpec{Pool: "zones", Exclude: []string{"vdc"}}); err != nil {
		t.Fatal(err)
	}
	boot := ""
	for _, phase := range []string{"creating pool", "creating datasets", "storing key"} {
		var last string
		now := r.Wait(m, "in phase "+phase+" of its setup in a new boot", func(s api.Server) bool {
			acceptKey(t, r, s)
			if s.BootID == boot || s.Report == nil || s.Report.BootID != s.BootID || s.Report.Setup == nil || s.Report.Setup.Error != "" {
				return false
			}
			last = s.Report.Setup.Phase
			return last == phase || s.Report.Setup.Complete
		})
		m.PowerOff()
		if last != phase {
			t.Fatalf("the setup was in phase %q before phase %q was reported", last, phase)
		}
		boot = now.BootID
		same(t, m.Disk(2), foreign)
		r.PowerOn(m)
	}
	s := r.Wait(m, "running after the power cuts", func(s api.Server) bool {
		acceptKey(t, r, s)
		return s.State == api.StateRunning
	})
	if len(s.Report.Pools) != 1 || s.Report.Pools[0].Health != "ONLINE" {
		t.Errorf("pools: %+v", s.Report.Pools)
	}
	if out := r.Shell(m, "zpool status zones"); !strings.Contains(out, "mirror-0") {
		t.Errorf("zpool status: %s", out)
	}
	same(t, m.Disk(2), foreign)
}

// acceptKey is what an operator does after a power cut before the key was on the
// pool: the next boot has another one, and the server is held until it is accepted.
func acceptKey(t *testing.T, r *labtest.Rack, s api.Server) {
	t.Helper()
	if s.State != api.StateHeld {
		return
	}
	if err := r.Client().AcceptKey(t.Context(), s.UUID, ""); err != nil {
		t.Logf("accept key: %v", err)
	}
}

// foreignDisk puts an ext4 superblock's magic and random data on a disk and gives
// its digest.
func foreignDisk(t *testing.T, path string) [32]byte {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	src := rand.NewChaCha8([32]byte{1})
	if _, err := io.CopyN(io.NewOffsetWriter(f, 2<<20), src, 8<<20); err != nil {
		t.Fatal(err)
	}
	cmd := "mkfs.ext4"
	f.Close()
	if out, err := command(t, cmd, "-q", "-F", path); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return digest(t, path)
}

func same(t *testing.T, path string, want [32]byte) {
	t.Helper()
	if digest(t, path) != want {
		t.Fatalf("%s changed: somebody else's data was destroyed", path)
	}
}

// digest reads a sparse disk; holes cost little.
func digest(t *testing.T, path string) [32]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

func command(t *testing.T, name string, args ...string) ([]byte, error) {
	t.Helper()
	return exec.CommandContext(t.Context(), name, args...).CombinedOutput()
}
