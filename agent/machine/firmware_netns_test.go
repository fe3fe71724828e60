//go:build netns

package machine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"nereid/agent/machine/vm"
	"nereid/api"
	"nereid/fixtures/guest"
)

// TestNetNSFirmware: a real QEMU with OVMF boots a UEFI application, which finds at its
// second boot, of another QEMU, what it left in a variable at the first; the TPM that it
// talks with, a real swtpm, is nobody's, can do nothing, and counts on.
func TestNetNSFirmware(t *testing.T) {
	machineDir = t.TempDir()
	for dir := machineDir; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) { // QEMU goes through it as another user
		if err := os.Chmod(dir, 0o1777); err != nil {
			t.Fatal(err)
		}
	}
	const uuid = "6a1c1a2e-1d2b-4c3d-8e4f-5a6b7c8d9e0f"
	application, err := os.ReadFile("../../fixtures/guest/efi.bin")
	if err != nil {
		t.Fatal(err)
	}
	esp, err := guest.ESP(application)
	if err != nil {
		t.Fatal(err)
	}
	dir, volumes := filepath.Join(machineDir, uuid), filepath.Join(machineDir, "zvol", uuid)
	if err := errors.Join(os.MkdirAll(volumes, 0o755), os.Mkdir(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	spec := machineOf(uuid)
	spec.VM.Machine, spec.VM.Emulated, spec.VM.Firmware, spec.VM.TPM, spec.MemoryMiB, spec.VCPUs, spec.NICs = "pc-q35-7.2", true, api.FirmwareUEFI, true, 64, 1, nil
	for _, d := range volumesOf(spec) {
		path := filepath.Join(volumes, d.Name)
		data := esp
		if d.Name != "disk0" {
			data = nil
		}
		if err := errors.Join(os.WriteFile(path, data, 0o600), os.Truncate(path, 1<<20), os.Chmod(path, 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	f := machineFiles(spec, seen{dir: dir, pool: "../.." + filepath.Join(machineDir, "zvol"), hypervisor: Hypervisor{QEMU: true, UEFI: true, TPM: true}})
	f.start.UID = firstBase
	f.start.Disks = f.start.Disks[:2] // without a seed
	if err := vm.Leave(dir, *f.start); err != nil {
		t.Fatal(err)
	}
	ended := make(chan string, 10)
	units := &processes{t: t, all: map[string]*exec.Cmd{}, heard: func(_, state string, _ time.Time) { ended <- state }}
	unit := machines().unit(uuid)
	t.Cleanup(func() {
		if pid := units.pid(unit); pid != 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		units.work.Wait()
	})
	resets := ""
	for _, boot := range []string{"efi: boot 1\r\nefi: tpm reset ", "efi: boot 2\r\nefi: tpm reset "} {
		tpm := exec.Command(os.Args[0])
		tpm.Env = append(os.Environ(), "NEREID_TEST_TPM="+dir)
		tpm.Stderr = t.Output()
		if err := tpm.Start(); err != nil {
			t.Fatal(err)
		}
		if err := units.Start(t.Context(), unit, dir, spec.Limits); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			b, _ := os.ReadFile(filepath.Join(vm.RunDir(dir), vm.ConsoleLog)) // it is not there at first
			if _, reset, is := strings.Cut(string(b), boot); is && len(reset) > 0 {
				resets += reset[:1]
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("its log has no %q: %q", boot, b)
			}
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tpm.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"Name:\tswtpm", "Uid:\t524289\t524289\t524289\t524289", "Gid:\t524288\t524288\t524288\t524288", "Groups:\t524288 \n", "NoNewPrivs:\t1",
			"CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000"} {
			if !strings.Contains(string(status), want) {
				t.Errorf("%q is not in the TPM's status:\n%s", want, status)
			}
		}
		if err := units.Stop(t.Context(), unit); err != nil {
			t.Fatal(err)
		}
		for state := ""; state != unitInactive; {
			if state = <-ended; state == unitFailed {
				t.Fatal("its QEMU failed")
			}
		}
		_ = tpm.Process.Kill() // as the unit is ended that QEMU's needs no more
		_ = tpm.Wait()
	}
	if len(resets) != 2 || resets[1] <= resets[0] {
		t.Errorf("the TPM counted its resets as %q: want it to go on", resets)
	}
}
