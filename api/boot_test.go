package api

import "testing"

// TestWhoAsks: one rule for what iPXE is, and one for who is given something to boot.
func TestWhoAsks(t *testing.T) {
	for _, tc := range []struct {
		user, vendor string
		ipxe, boots  bool
	}{
		{"iPXE", "PXEClient:Arch:00000:UNDI:002001", true, true},
		{"iPXE", "", true, true},
		{"x,iPXE", "", true, true},
		{"", "PXEClient:Arch:00007:UNDI:003016", false, true},
		{"", "HTTPClient:Arch:00016:UNDI:003001", false, true},
		{"gPXE", "PXEClient", false, true},
		{"not iPXE", "udhcp 1.35", false, false},
		{"", "nereid", false, false},
		{"", "", false, false},
	} {
		r := BootRequest{UserClass: tc.user, VendorClass: tc.vendor}
		if r.IPXE() != tc.ipxe || r.Boots() != tc.boots {
			t.Errorf("user class %q, vendor class %q: IPXE %v, Boots %v", tc.user, tc.vendor, r.IPXE(), r.Boots())
		}
	}
}
