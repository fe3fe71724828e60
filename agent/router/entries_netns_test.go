//go:build netns

package router

import (
	"net/netip"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestNetNSEntries: an entry is found, and there is none on a port that has left its bridge
// or is gone since its links were listed, as when an account's last NIC left a server; that
// is no failure.
func TestNetNSEntries(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const mac = "02:00:00:00:00:09"
	ip(t, "", "link add br9 type bridge", "link add en9 type veth peer name en8", "link set br9 up", "link set en9 up", "link set en9 master br9",
		"neigh add 10.9.0.1 lladdr "+mac+" dev br9 nud permanent")
	t.Cleanup(func() { ip(t, "", "link del en9") })
	index := func(name string) int {
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		return l.Attrs().Index
	}
	bridge, port, a := index("br9"), index("en9"), netip.MustParseAddr("10.9.0.1")
	wants := func(what string, wantPort int, wantMAC string) {
		t.Helper()
		if got, err := staticEntry(port, mac); err != nil || got != wantPort {
			t.Errorf("%s: the entry of %s leads to %d, %v: want %d", what, mac, got, err, wantPort)
		}
		if got, err := neighbour(bridge, a); err != nil || got != wantMAC {
			t.Errorf("%s: %s is at %q, %v: want %q", what, a, got, err, wantMAC)
		}
	}
	wants("without an entry", 0, mac)
	run(t, "bridge", "fdb", "add", mac, "dev", "en9", "master", "static")
	wants("with one", port, mac)
	ip(t, "", "link set en9 nomaster")
	wants("out of its bridge", 0, "") // whose address is another without it, with which its neighbours go
	ip(t, "", "link del br9")
	wants("without a bridge", 0, "")
}
