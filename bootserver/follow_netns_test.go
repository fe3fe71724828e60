//go:build netns

package bootserver_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nereid/bootserver"
)

// untilAlerts waits until the alerts hold a text, or are none when it is empty.
func untilAlerts(t *testing.T, s *bootserver.Server, want string) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		alerts := strings.Join(s.Alerts(), "\n")
		if want == "" && alerts == "" || want != "" && strings.Contains(alerts, want) {
			return
		}
		select {
		case <-limit:
			t.Fatalf("alerts %q, want %q", alerts, want)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// TestNetNSInterfaceMadeAgain: when the admin interface is removed and made again,
// every leg serves machines as before, and an alert shows until it does.
func TestNetNSInterfaceMadeAgain(t *testing.T) {
	b := newBooter(t, []byte("kernel"), []byte("initrd"))
	s := start(t, b, "all")
	ip(t, "link del admin0")
	untilAlerts(t, s, "the admin interface admin0 is gone")
	ip(t, "link add admin0 type bridge forward_delay 0")
	untilAlerts(t, s, "admin0 is down")
	ip(t, "link set admin0 up")
	untilAlerts(t, s, "lost the address 10.99.99.7")
	ip(t, "addr add 10.99.99.7/24 dev admin0")
	untilAlerts(t, s, "")

	out, err := exec.Command("ss", "-Hlun", "sport", "=", ":67", "or", "sport", "=", ":4011").CombinedOutput()
	if err != nil {
		t.Fatalf("ss: %v %s", err, out)
	}
	contains(t, "ss", string(out), "%admin0:67 ", "%admin0:4011 ")

	ns := clientNS(t, "52:54:00:00:02:03")
	script, output := envScript(t)
	if out, err := dhcpClients["udhcpc"].run(t, ns, script, ""); err != nil {
		t.Fatalf("udhcpc: %v\n%s", err, out)
	}
	contains(t, "udhcpc's hook", readAll(t, output), "ip=10.99.99.100")
	ip(t, "-n "+ns+" addr add 10.99.99.100/24 dev c0")
	file := filepath.Join(t.TempDir(), "ipxe")
	if out, err := inNS(t, ns, 20*time.Second, "atftp", "-g", "-r", "/UNDIONLY.KPXE\xff", "-l", file, "10.99.99.7"); err != nil {
		t.Fatalf("atftp: %v %s", err, out)
	}
	if fi, err := os.Stat(file); err != nil || fi.Size() < 10000 {
		t.Errorf("iPXE over TFTP: %v %v", fi, err)
	}
	if out, err := inNS(t, ns, 20*time.Second, "curl", "-sS", "--fail", "-o", file, "http://10.99.99.7/ipxe/ipxe.efi"); err != nil {
		t.Errorf("curl: %v %s", err, out)
	}
	if out, err := inNS(t, ns, 40*time.Second, "env", solicitEnv+"=c0", os.Args[0]); err != nil {
		t.Errorf("router advertisement: %v: %s", err, out)
	}
}
