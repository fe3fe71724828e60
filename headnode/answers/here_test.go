package answers

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"testing"
)

func TestMissing(t *testing.T) {
	addr := netip.MustParsePrefix
	here := []Interface{
		{Name: "lo", Loopback: true, Addresses: []netip.Prefix{addr("127.0.0.1/8")}},
		{Name: "eth1", Addresses: []netip.Prefix{addr("10.99.99.7/24"), addr("fe80::1/64")}},
		{Name: "eth0", Addresses: []netip.Prefix{addr("192.0.2.7/24")}},
	}
	for _, tt := range []struct{ iface, address, want string }{
		{"eth1", "10.99.99.7/24", ""},
		{"lo", "127.78.0.7/24", ""},
		{"admin0", "10.99.99.7/24", "admin.interface: this machine has no interface admin0; it has eth0, eth1, lo"},
		{"eth0", "10.99.99.7/24", "admin.address: 10.99.99.7 is on interface eth1, not on eth0"},
		{"eth0", "10.99.98.7/24", "admin.address: eth0 does not have 10.99.98.7; give it the address with: ip address add 10.99.98.7/24 dev eth0"},
		{"eth0", "127.0.0.1/8", "admin.address: 127.0.0.1 is on interface lo, not on eth0"},
	} {
		got := ""
		for _, f := range (Admin{Interface: tt.iface, Address: netip.MustParsePrefix(tt.address)}).Missing(here) {
			got += f.Key + ": " + f.Text
		}
		if got != tt.want {
			t.Errorf("%s on %s: %q, want %q", tt.address, tt.iface, got, tt.want)
		}
	}
}

// A person who names an interface that is not there is asked again, at once; the
// defaults are those of this machine.
func TestAskLooksAtThisMachine(t *testing.T) {
	here := []Interface{
		{Name: "lo", Loopback: true, Addresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}},
		{Name: "eth1", Addresses: []netip.Prefix{netip.MustParsePrefix("fe80::1/64"), netip.MustParsePrefix("192.0.2.120/24")}},
	}
	var out bytes.Buffer
	a, err := Ask(context.Background(), strings.NewReader("\n\nadmin0\n\n\n\n\n\n\n\n\n"), &out, here)
	want := Admin{Interface: "eth1", Address: netip.MustParsePrefix("192.0.2.120/24"), First: netip.MustParseAddr("192.0.2.10"), Last: netip.MustParseAddr("192.0.2.99")}
	got := a.Admin
	if err != nil || got.Interface != want.Interface || got.Address != want.Address || got.First != want.First || got.Last != want.Last ||
		!strings.Contains(out.String(), "this machine has no interface admin0; it has eth1, lo") {
		t.Errorf("%+v, %v, asked:\n%s", got, err, out.String())
	}
}

func TestRangeBeside(t *testing.T) {
	for address, want := range map[string]string{
		"10.99.99.7/24": "10.99.99.100 10.99.99.250", "10.5.0.120/16": "10.5.0.10 10.5.0.99", "192.0.2.251/24": "192.0.2.100 192.0.2.250",
		"192.0.2.2/28": "10.99.99.100 10.99.99.250", "nonsense": "10.99.99.100 10.99.99.250",
	} {
		if got := rangeBeside(address); got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
}
