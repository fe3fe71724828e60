//go:build vm

package instance

import (
	"path/filepath"
	"strings"
	"testing"

	"nereid/api"
	"nereid/integration/lab"
	"nereid/integration/lab/labtest"
)

// TestVMMachine takes the bytes of a disk to a running virtual machine, whose processor is
// emulated: its guest is heard on the console, seen by viewers, interrupted, lives on when
// the agent is killed, is started again when its QEMU was, and turns itself off at the power
// button; its disks go back to a snapshot together; what it has not yet is refused with
// words, and deleted it leaves nothing.
func TestVMMachine(t *testing.T) {
	o := operator{labtest.Standard(t)}
	m := o.Machines()[0]
	guest, err := filepath.Abs("../../fixtures/guest/boot.bin")
	if err != nil {
		t.Fatal(err)
	}
	var img api.Image
	o.read(&img, "image", "import", guest, "--format", "raw", "--name", "guest")
	o.Undo("image", "delete", img.UUID, "--yes")
	o.network()
	o.nereid("package", "create", "machine", "--memory-mib", "64", "--vcpus", "1", "--quota-mib", "256")
	o.Undo("package", "disable", "machine")
	create := []string{"instance", "create", "m1", "--owner", alice, "--image", img.UUID, "--package", "machine", "--network", "web", "--on", m.Spec.Name, "--disk", "16", "--emulated", "--wait"}
	o.nereid(create...)
	o.Undo("instance", "delete", "m1", "--yes", "--wait")
	i := o.instance("m1")
	if i.Brand != api.BrandKVM || i.State != api.InstanceRunning || len(i.VM.Disks) != 2 {
		t.Fatalf("made %+v", i)
	}
	unit := "nereid-vm-" + i.UUID + ".service"
	pid := func() string { return o.Shell(m, "systemctl show -p MainPID --value "+unit) }
	// printed waits until the guest printed a line so often.
	printed := func(line string, times string) {
		t.Helper()
		o.until(m, `[ "$(cat /run/nereid/consoles/to/`+i.UUID+`.log* | grep -c "`+line+`")" -ge `+times+` ]`)
	}
	printed("guest: up", "1")
	if out := o.nereid("instance", "logs", "m1"); !strings.Contains(out, "guest: up") {
		t.Errorf("its log is %q", out)
	}
	if out, err := o.command(t.Context(), "instance", "exec", "m1", "--", "true").CombinedOutput(); err == nil || !strings.Contains(string(out), "no guest agent answers") {
		t.Errorf("exec: %v, %s", err, out)
	}

	o.screen("m1")
	printed("guest: nmi", "1")
	if s := o.snapshot("m1", "live"); s.Consistency != api.SnapshotCrash {
		t.Errorf("a snapshot of a machine that runs: %+v", s)
	}

	first := pid()
	o.Shell(m, "systemctl kill -s KILL nereid-agent")
	o.until(m, "systemctl is-active --quiet nereid-agent")
	o.nereid("instance", "tag", "set", "m1", "k=v") // and is heard of again
	if now := pid(); now != first {
		t.Errorf("its QEMU is process %s, it was %s before the agent was killed", now, first)
	}

	gone := o.machineDevices(m, i, first)

	o.Shell(m, "kill -9 "+first)
	o.until(m, `p=$(systemctl show -p MainPID --value `+unit+`) && [ "$p" != `+first+` ] && [ "$p" != 0 ]`)
	printed("guest: up", "2")
	o.until(m, gone)

	o.nereid("instance", "stop", "m1", "--wait")
	printed("guest: power button", "1")
	if s := o.snapshot("m1", "stopped"); s.Consistency != api.SnapshotStopped {
		t.Errorf("a snapshot of a machine that is stopped: %+v", s)
	}
	disk := "/dev/zvol/zones/" + i.UUID + "/disk1"
	o.Shell(m, "echo changed | dd of="+disk+" conv=notrunc,fsync 2>/dev/null")
	o.nereid("instance", "snapshot", "rollback", "m1", "live", "--yes", "--wait")
	if out := o.Shell(m, "head -c 7 "+disk+" | tr '\\0' x"); strings.TrimSpace(out) != "xxxxxxx" {
		t.Errorf("after the rollback disk1 begins with %q", out)
	}
	if got := o.snapshots("m1"); got != "live" {
		t.Errorf("after the rollback there are %s", got)
	}
	if out := o.Shell(m, "zfs list -H -o name,volsize -t volume -r zones/"+i.UUID); strings.Count(out, "/disk") != 2 {
		t.Errorf("its volumes are\n%s", out)
	}
	o.nereid("instance", "start", "m1", "--wait")
	printed("guest: up", "3")
	o.nereid("instance", "stop", "m1", "--force", "--wait")
	o.firmware(m, "instance", "create", "m2", "--owner", alice, "--image", img.UUID, "--package", "machine", "--on", m.Spec.Name, "--emulated", "--wait")
}

// machineDevices gives a machine that runs, as process pid, a disk and a NIC, grows the disk,
// and takes both away; its guest, which knows no such thing, keeps them until it is started
// anew: the result is what is true then.
func (o operator) machineDevices(m *lab.Machine, i api.Instance, pid string) (gone string) {
	t := o.T
	volume := "/dev/zvol/zones/" + i.UUID + "/disk2"
	open := "ls -l /proc/" + pid + "/fd | grep -q \"$(readlink -f " + volume + ")$\""
	o.nereid("instance", "disk", "add", "m1", "8")
	o.until(m, open)
	o.nereid("instance", "disk", "grow", "m1", "disk2", "12")
	o.until(m, "journalctl -u nereid-agent | grep "+i.UUID+" | grep -q \"tell that disk2 has 12 MiB\"")
	o.nereid("instance", "nic", "add", "m1", "web")
	nic := o.instance("m1").NICs[1]
	tap := "np" + strings.ReplaceAll(nic.MAC, ":", "")
	o.until(m, `[ "$(cat /sys/class/net/`+tap+`/carrier)" = 1 ] && [ -e /sys/class/net/`+tap+`/master ] && nft list chains netdev | grep -q `+tap)
	o.nereid("instance", "nic", "remove", "m1", nic.MAC, "--yes")
	o.nereid("instance", "disk", "remove", "m1", "disk2", "--yes")
	left := "ng" + strings.TrimPrefix(tap, "np")
	o.until(m, `[ ! -e /sys/class/net/`+tap+` ] && [ ! -e /sys/class/net/`+left+`/master ]`)
	o.await(i.UUID, "waiting for its guest", func(i api.Instance) bool {
		return i.State == api.InstanceRunning && strings.Contains(i.Reason, "NIC "+nic.MAC+", disk2 wait for the guest")
	})
	if out := o.Shell(m, open+" && zfs list -H -o volsize zones/"+i.UUID+"/disk2"); strings.TrimSpace(out) != "12M" {
		t.Errorf("the disk that the guest keeps has %q", out)
	}
	return "[ ! -e " + volume + " ] && [ ! -e /sys/class/net/" + left + " ]"
}
