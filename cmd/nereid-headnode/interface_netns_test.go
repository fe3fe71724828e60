//go:build netns

package main

import (
	"strings"
	"testing"
	"time"
)

// alert waits until the datacenter's alerts speak of the admin interface, or do not
// any more.
func (r *rack) alert(want bool) {
	r.t.Helper()
	limit := time.After(20 * time.Second)
	for {
		d, err := r.client.Datacenter(r.t.Context())
		if err != nil {
			r.t.Fatal(err)
		}
		text := strings.Join(d.Alerts, "\n")
		if strings.Contains(text, "the admin interface admin0") == want {
			return
		}
		select {
		case <-limit:
			r.t.Fatalf("alerts %q, want the admin interface in them: %v", text, want)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// TestNetNSAdminInterfaceMadeAgain: with the admin interface removed the datacenter
// says so; once it is made again machines get their leases from the same process.
func TestNetNSAdminInterfaceMadeAgain(t *testing.T) {
	r := newRack(t)
	addr := r.lease()
	r.alert(false)
	r.ip("-n", r.head, "link", "del", "admin0")
	r.alert(true)
	r.ip("-n", r.head, "link", "add", "admin0", "type", "veth", "peer", "name", "e0", "netns", r.machine)
	r.ip("-n", r.head, "addr", "add", "10.99.99.7/24", "dev", "admin0")
	r.ip("-n", r.head, "link", "set", "admin0", "up")
	r.ip("-n", r.machine, "link", "set", "e0", "address", "52:54:00:aa:bb:01", "up")
	r.alert(false)
	if again := r.lease(); again != addr {
		t.Errorf("the lease of %s became %s", addr, again)
	}
	r.ip("-n", r.machine, "addr", "add", addr+"/24", "dev", "e0")
	if status, _ := r.curl("/ipxe/snponly.efi"); status != "200" {
		t.Errorf("iPXE over HTTP: %s", status)
	}
}
