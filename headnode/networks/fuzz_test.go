package networks

import (
	"testing"

	"nereid/api"

	"github.com/google/go-cmp/cmp"
)

// FuzzNetwork: what a request may say of a network is refused, or its canonical
// form is stable and gives out hosts of its subnet only.
func FuzzNetwork(f *testing.F) {
	f.Add("10.0.0.0/24", "", "", "10.0.0.1", "10.0.0.53", "10.9.0.0/16", "10.0.0.2", false)
	f.Add("fd00::/64", "fd00::10", "fd00::ffff", "fd00::1", "2001:db8::1", "::/1", "fd00::2", true)
	f.Add("10.0.0.0/31", "10.0.0.0", "10.0.0.1", "", "", "", "", true)
	f.Add("::ffff:10.0.0.0/120", "10.0.0.1%eth0", "", "::", "255.255.255.255", "0.0.0.0/0", "x", false)
	f.Fuzz(func(t *testing.T, subnet, start, end, gateway, resolver, dst, hop string, fabric bool) {
		a := api.Network{Name: "n", NICTag: external, Subnet: subnet, ProvisionStart: start, ProvisionEnd: end, Gateway: gateway,
			Resolvers: []string{resolver}, Routes: map[string]string{dst: hop}, MTU: 1400}
		if resolver == "" {
			a.Resolvers = nil
		}
		if dst == "" {
			a.Routes = nil
		}
		if fabric {
			a.Fabric, a.NICTag, a.VNI, a.Owners = true, "", 7, []string{alice}
		}
		n, err := normal(a)
		if err != nil {
			return
		}
		again, err := normal(n.Network)
		if err != nil {
			t.Fatalf("%+v is refused in its canonical form: %v", n.Network, err)
		}
		if d := cmp.Diff(n.Network, again.Network); d != "" {
			t.Fatal(d)
		}
		if !isHost(n.subnet, n.first) || !isHost(n.subnet, n.last) || n.last.Less(n.first) || n.gateway.IsValid() && n.pooled(n.gateway) {
			t.Fatalf("%+v", n)
		}
		if b, err := addrOf(hexOf(n.first)); err != nil || b != n.first {
			t.Fatalf("%s is %s in keys, %v", n.first, b, err)
		}
	})
}
