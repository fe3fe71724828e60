//go:build vm

package instance

import (
	"path/filepath"
	"strings"
	"testing"

	"nereid/api"
	"nereid/integration/lab/labtest"
)

// TestVMMachine takes the bytes of a disk to a running virtual machine, whose processor is
// emulated: its guest is heard on the console, seen by viewers, interrupted, lives on when the agent is killed, is
// started again when its QEMU was, and turns itself off at the power button; what it has
// not yet is refused with words, and deleted it leaves nothing.
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
	if out, err := o.command(t.Context(), "instance", "exec", "m1", "--", "true").CombinedOutput(); err == nil || !strings.Contains(string(out), "virtual machine") {
		t.Errorf("exec: %v, %s", err, out)
	}

	o.screen("m1")
	printed("guest: nmi", "1")

	first := pid()
	o.Shell(m, "systemctl kill -s KILL nereid-agent")
	o.until(m, "systemctl is-active --quiet nereid-agent")
	o.nereid("instance", "tag", "set", "m1", "k=v") // and is heard of again
	if now := pid(); now != first {
		t.Errorf("its QEMU is process %s, it was %s before the agent was killed", now, first)
	}

	o.Shell(m, "kill -9 "+first)
	o.until(m, `p=$(systemctl show -p MainPID --value `+unit+`) && [ "$p" != `+first+` ] && [ "$p" != 0 ]`)
	printed("guest: up", "2")

	o.nereid("instance", "stop", "m1", "--wait")
	printed("guest: power button", "1")
	if out := o.Shell(m, "zfs list -H -o name,volsize -t volume -r zones/"+i.UUID); strings.Count(out, "/disk") != 2 {
		t.Errorf("its volumes are\n%s", out)
	}
	o.nereid("instance", "start", "m1", "--wait")
	printed("guest: up", "3")
	o.nereid("instance", "stop", "m1", "--force", "--wait")
}
