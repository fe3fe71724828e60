//go:build vm

package machine

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nereid/agent/machine/vm"
	"nereid/agent/machine/zone"
	"nereid/api"
)

const testGuest = "image-guest"

// CloneDisks makes volumes by zfs(8).
func (testStore) CloneDisks(ctx context.Context, uuid string, disks []api.VMDisk, mib int) error {
	if zfs(ctx, "list", pool+"/"+uuid) != nil {
		if err := zfs(ctx, "create", "-o", fmt.Sprintf("quota=%dM", mib), "-o", "canmount=noauto", "-o", "mountpoint=legacy", "-o", "volmode=dev", pool+"/"+uuid); err != nil {
			return err
		}
	}
	for _, d := range disks {
		volume := pool + "/" + uuid + "/" + d.Name
		if zfs(ctx, "list", volume) == nil {
			continue
		}
		if err := zfs(ctx, "clone", "-o", "volmode=dev", pool+"/"+d.Image+"@final", volume); err != nil {
			return err
		}
	}
	return nil
}

// TestRealMachine: a machine is a unit of its own, whose QEMU sees its disks, sockets and
// taps, and nothing else of the server; its guest boots from a volume, speaks, lives on
// while the agent is away, is adopted, and turns itself off at the power button; killed,
// it is started again; deleted, nothing is left.
func TestRealMachine(t *testing.T) {
	r := newReal(t)
	guest := os.Getenv("NEREID_TEST_GUEST")
	if guest == "" {
		t.Fatal("NEREID_TEST_GUEST is not set: integration/instance runs this in a server")
	}
	sh(t, "zfs create -s -V 1M -o volmode=dev "+pool+"/"+testGuest+" && udevadm settle && dd if="+guest+" of=/dev/zvol/"+pool+"/"+testGuest+" conv=fsync && zfs snapshot "+pool+"/"+testGuest+"@final")
	r.ImageThere(testGuest, true)
	spec := testSpec(7)
	uuid, unit := spec.UUID, machines().unit(spec.UUID)
	sh(t, "ip tuntap add "+zone.Port(spec.NICs[0].MAC)+" mode tap vnet_hdr")
	spec.Brand, spec.Image, spec.MemoryMiB, spec.CPUCapPercent, spec.Processes = api.BrandKVM, testGuest, 64, 100, 0
	spec.VM = &api.VM{Machine: "pc-q35-10.0", CPU: "qemu64", Firmware: api.FirmwareBIOS, Source: api.SourceNoCloud, Emulated: true,
		Disks: []api.VMDisk{{Name: "disk0", SizeMiB: 1, Image: testGuest}}}
	w := Wanted{Spec: spec}
	r.until(w, uuid, "running", runs)
	log := r.look(uuid, spec).log
	if log == "" {
		log = filepath.Join(vm.RunDir(r.dir(uuid)), vm.ConsoleLog)
	}
	printed := func(text string, times int) {
		t.Helper()
		waitFor(t, text, func() bool { b, _ := os.ReadFile(log); return strings.Count(string(b), text) >= times })
	}
	printed("guest: up", 1)

	pid := sh(t, "systemctl show -p MainPID --value "+unit)
	status := sh(t, "cat /proc/"+pid+"/status")
	for _, want := range []string{"Name:\tqemu-system", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(status, want) {
			t.Errorf("%q is not in its status:\n%s", want, status)
		}
	}
	sees := sh(t, "ls -A /proc/"+pid+"/root/run /proc/"+pid+"/root/run/nereid "+" /proc/"+pid+"/root/tmp; ls -l /proc/"+pid+"/fd")
	t.Log(sees)
	for _, not := range []string{"headnode", "private", "dbus", "udev", "agent", "/dev/vd", "/dev/sd", "/dev/zfs"} {
		if strings.Contains(sees, not) {
			t.Errorf("it sees %s", not)
		}
	}
	if !strings.Contains(sees, "/dev/zd") || !strings.Contains(sees, "/dev/net/tun") {
		t.Error("it has not its disk and its tap open")
	}
	if out := sh(t, "setpriv --reuid 524288 --clear-groups dd if=/dev/vda of=/dev/null count=1 2>&1 || true"); !strings.Contains(out, "Permission denied") && !strings.Contains(out, "No such file") {
		t.Errorf("its user reads the server's disk: %s", out)
	}

	// The agent goes and comes: it finds what runs.
	r.stop()
	c, err := net.Dial("unix", filepath.Join(vm.RunDir(r.dir(uuid)), vm.Console))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	printed("hello", 1)
	c.Close()
	r.start()
	r.Known(map[string]*api.InstanceSpec{uuid: spec}, []string{testGuest})
	r.until(w, uuid, "adopted", runs)
	if now := sh(t, "systemctl show -p MainPID --value "+unit); now != pid {
		t.Errorf("adopted is process %s, it was %s", now, pid)
	}

	sh(t, "kill -9 "+pid)
	r.until(w, uuid, "running after a crash", func(st api.InstanceStatus, _ bool) bool {
		now := sh(t, "systemctl show -p MainPID --value "+unit)
		return st.State == api.InstanceRunning && now != pid && now != "0"
	})
	printed("guest: up", 2)
	stopped := *spec
	stopped.Wanted = api.InstanceStopped
	r.until(Wanted{Spec: &stopped}, uuid, "stopped", stops)
	printed("guest: power button", 1)
	r.until(Wanted{Gone: true}, uuid, "gone", gone)
	if left := sh(t, "zfs list -H -o name; ls "+testDir+" "+zone.Consoles+" "+zone.Metadata+"; systemctl list-units --all --no-legend 'nereid-vm-*'"); strings.Contains(left, uuid) {
		t.Errorf("left is\n%s", left)
	}
}

// DropDisk destroys a volume.
func (testStore) DropDisk(ctx context.Context, uuid, disk string) error {
	if zfs(ctx, "list", pool+"/"+uuid+"/"+disk) != nil {
		return nil
	}
	return zfs(ctx, "destroy", pool+"/"+uuid+"/"+disk)
}
