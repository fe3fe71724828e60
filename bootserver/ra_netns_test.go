//go:build netns

package bootserver_test

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

// TestNetNSRouterAdvertisement: a machine that solicits routers hears that there
// is none, which is what iPXE waits for.
func TestNetNSRouterAdvertisement(t *testing.T) {
	start(t, newBooter(t, []byte("kernel"), []byte("initrd")), "pxe")
	ns := clientNS(t, "52:54:00:00:02:01")
	out, err := inNS(t, ns, 30*time.Second, "env", solicitEnv+"=c0", os.Args[0])
	if err != nil || out != "lifetime 0s managed false other false options 0 hop limit 255\n" {
		t.Errorf("%v: %s", err, out)
	}
}

// TestNetNSWithoutIPv6: a host without IPv6 boots machines all the same.
func TestNetNSWithoutIPv6(t *testing.T) {
	const key = "net.ipv6.conf.admin0.disable_ipv6"
	if out, err := exec.Command("sysctl", "-w", key+"=1").CombinedOutput(); err != nil {
		t.Fatalf("sysctl: %v %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("sysctl", "-w", key+"=0").CombinedOutput(); err != nil {
			t.Errorf("sysctl: %v %s", err, out)
		}
	})
	b := newBooter(t, []byte("kernel"), []byte("initrd"))
	start(t, b, "all")
	ns := clientNS(t, "52:54:00:00:02:02")
	script, output := envScript(t)
	if out, err := dhcpClients["udhcpc"].run(t, ns, script, ""); err != nil {
		t.Fatalf("udhcpc: %v\n%s", err, out)
	}
	contains(t, "udhcpc's hook", readAll(t, output), "ip=10.99.99.100")
}
