//go:build vm

package instance

import (
	"strings"

	"nereid/integration/lab"
)

// firmware makes a machine with UEFI and a TPM, as a guest of another disk would boot by
// (TestNetNSFirmware has one): both remember in volumes below its dataset; the TPM is a unit
// of its own, which may do nothing, sees nothing of the server but its volume and socket,
// and comes and goes with QEMU's.
func (o operator) firmware(m *lab.Machine, create ...string) {
	o.T.Helper()
	if out, err := o.command(o.T.Context(), append(create, "--firmware", "uefi", "--tpm")...).CombinedOutput(); err != nil {
		o.T.Logf("its server's log ends with\n%s", o.Shell(m, "journalctl -q --no-pager -n 40 -t nereid-zone -t qemu-system-x86_64 -t swtpm"))
		o.T.Errorf("%v: %s", err, out)
	}
	o.Undo("instance", "delete", "m2", "--yes", "--wait")
	uuid := o.instance("m2").UUID
	qemu, tpm := "nereid-vm-"+uuid+".service", "nereid-tpm-"+uuid+".service"
	if out := o.Shell(m, "zfs list -H -o name -t volume -r zones/"+uuid); !strings.Contains(out, "/vars") || !strings.Contains(out, "/tpm") {
		o.T.Errorf("its volumes are\n%s", out)
	}
	if out := o.Shell(m, "dd if=/dev/zvol/zones/"+uuid+"/vars bs=1 skip=40 count=4 2>/dev/null"); out != "_FVH" {
		o.T.Errorf("its variables begin with %q", out)
	}
	pid := o.Shell(m, "systemctl show -p MainPID --value "+tpm)
	status := o.Shell(m, "cat /proc/"+pid+"/status")
	for _, want := range []string{"Name:\tswtpm", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(status, want) {
			o.T.Errorf("%q is not in its TPM's status:\n%s", want, status)
		}
	}
	sees := o.Shell(m, "ls -A /proc/"+pid+"/root/run /proc/"+pid+"/root/run/nereid /proc/"+pid+"/root/tmp; ls -l /proc/"+pid+"/fd")
	if !strings.Contains(sees, "/dev/zd") {
		o.T.Errorf("its TPM has not its volume open:\n%s", sees)
	}
	for _, not := range []string{"headnode", "private", "dbus", "udev", "agent", "consoles", "/dev/vd", "/dev/sd", "/dev/zfs"} {
		if strings.Contains(sees, not) {
			o.T.Errorf("its TPM sees %s:\n%s", not, sees)
		}
	}
	o.nereid("instance", "stop", "m2", "--force", "--wait")
	o.until(m, "! systemctl is-active --quiet "+tpm)
	o.nereid("instance", "start", "m2", "--wait")
	o.Shell(m, "systemctl is-active --quiet "+qemu+" && systemctl is-active --quiet "+tpm)
	o.nereid("instance", "stop", "m2", "--force", "--wait")
}
