//go:build vm

package network

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
)

// These tests run as root inside a guest whose kernel has bonds and VLANs, in
// network namespaces of their own: the guest's own network is not touched.

// answers is a head node that answers when it is reached over the admin network.
func (n *node) answers(t *testing.T, head *node) func(context.Context) error {
	return func(ctx context.Context) error {
		for ctx.Err() == nil {
			if n.sees(t, head.Admin.String()) && n.sees(t, "fd99::9") {
				return nil
			}
		}
		return ctx.Err()
	}
}

func (n *node) nicMACs(server int, nics ...int) (macs []string) {
	for _, i := range nics {
		macs = append(macs, n.mac(server, i))
	}
	return macs
}

// onTagPort is a port of server 1 on a tag and VLAN.
func onTagPort(n, server int, tag string, vlan int, addr string) api.PortSpec {
	p := labPort(n, server, 0, addr)
	p.Tag, p.VLAN, p.MTU = tag, vlan, 1500
	return p
}

// bonded is a server with an active-backup bond that provides everything.
func (n *node) bonded(server int, mode, rate string, mtu int) api.NetworkSpec {
	return api.NetworkSpec{
		Bonds: []api.BondSpec{{Name: "bond0", Mode: mode, LACPRate: rate, MACs: n.nicMACs(server, 0, 1)}},
		Tags:  []api.TagSpec{{Name: "admin", MTU: 1500, Bond: "bond0"}, {Name: "external", MTU: mtu, Bond: "bond0"}},
		Ports: []api.PortSpec{onTagPort(1, server, "admin", 0, fmt.Sprintf("10.99.99.%d/24", 100+server)), onTagPort(2, server, "external", 10, fmt.Sprintf("10.10.0.%d/24", server)),
			onTagPort(3, server, "external", 20, fmt.Sprintf("10.10.0.%d/24", 10+server))},
	}
}

// TestRealBondActiveBackup moves the admin network from a NIC to a bond and back;
// the head node answers after each change, also when the active member's cable is
// pulled.
func TestRealBondActiveBackup(t *testing.T) {
	l := newLab(t)
	n, head := l.server(t, 1, 4), l.server(t, 9, 2)
	n.adminNIC(t, 1)
	head.adminNIC(t, 9)
	n.Confirm = n.answers(t, head)
	before := n.read(t).String()
	spec := n.bonded(1, "active-backup", "", 1500)
	n.mustApply(t, spec)
	s := n.read(t)
	nb := s.find(BridgeOfTag("admin", 0))
	if nb == nil || len(nb.Addrs) != 2 || len(nb.Routes) != 3 || s.Links["bond0"].Mode != "active-backup" || s.Links["eth0"].Master != "bond0" || s.Links["eth1"].Master != "bond0" {
		t.Fatalf("state:\n%s", s)
	}
	for _, cable := range []string{"s1n0", "s1n1"} {
		run(t, "ip", "-n", l.name+"-sw", "link", "set", cable, "down")
		eventually(t, "the head node answers without "+cable, func() bool { return n.sees(t, "10.99.99.9") })
		r, err := n.Report(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range r.Links {
			if want := link.Name != "eth"+cable[3:] && link.Name != "eth2" && link.Name != "eth3"; link.Up != want {
				t.Errorf("without %s: %+v", cable, link)
			}
		}
		run(t, "ip", "-n", l.name+"-sw", "link", "set", cable, "up")
	}
	// Other members, then none: the tags are the NIC's again.
	spec.Bonds[0].MACs = n.nicMACs(1, 0, 2)
	n.mustApply(t, spec)
	if s := n.read(t); s.Links["eth1"].Master != "" || s.Links["eth2"].Master != "bond0" {
		t.Errorf("state:\n%s", s)
	}
	n.mustApply(t, api.NetworkSpec{Tags: []api.TagSpec{{Name: "admin", MTU: 1500, MAC: n.mac(1, 0)}}})
	for _, nic := range []string{"eth1", "eth2"} {
		n.ip(t, "link", "set", nic, "down")
	}
	if d := cmp.Diff(before, n.read(t).String()); d != "" {
		t.Error(d)
	}
}

// TestRealLACP: against a bond made with ip link, members come to collect; the
// rate is changed under the admin address; the mode too.
func TestRealLACP(t *testing.T) {
	l := newLab(t)
	n := l.server(t, 1, 2)
	peer := l.name + "-peer"
	l.addNamespace(t, peer)
	run(t, "ip", "-n", peer, "link", "add", "bond9", "type", "bond", "mode", "802.3ad", "lacp_rate", "fast", "miimon", "100")
	for i := range 2 {
		run(t, "ip", "-n", l.name+"-sw", "link", "set", fmt.Sprintf("s1n%d", i), "nomaster")
		run(t, "ip", "-n", l.name+"-sw", "link", "set", fmt.Sprintf("s1n%d", i), "down", "netns", peer)
		run(t, "ip", "-n", peer, "link", "set", fmt.Sprintf("s1n%d", i), "master", "bond9")
	}
	run(t, "ip", "-n", peer, "addr", "add", "10.99.99.9/24", "dev", "bond9")
	run(t, "ip", "-n", peer, "link", "set", "bond9", "up")
	n.adminNIC(t, 1)
	collecting := func() bool {
		r, err := n.Report(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(fmt.Sprint(r.Links), "collecting") == 3
	}
	for _, rate := range []string{"slow", "fast"} {
		spec := n.bonded(1, "802.3ad", rate, 1500)
		n.mustApply(t, spec)
		if got := n.read(t).Links["bond0"].Rate; got != rate {
			t.Errorf("rate %s, want %s", got, rate)
		}
		for !collecting() || !n.sees(t, "10.99.99.9") { // ends with the test's time
			if t.Context().Err() != nil {
				t.Fatal("the bond does not collect")
			}
		}
	}
	run(t, "ip", "-n", peer, "link", "set", "s1n0", "down")
	eventually(t, "the report shows a member without a link", func() bool {
		r, err := n.Report(t.Context())
		return err == nil && strings.Contains(fmt.Sprint(r.Links), "down")
	})
}

// TestRealVLAN: ports on two VLANs of a tag, on two servers, with bonds and
// without; each VLAN for itself; and the MTU changes without a cut.
func TestRealVLAN(t *testing.T) {
	l := newLab(t)
	n1, n2 := l.server(t, 1, 2), l.server(t, 2, 2)
	n1.adminNIC(t, 1)
	n2.adminNIC(t, 2)
	n2spec := n2.bonded(2, "active-backup", "", 1500)
	n2spec.Bonds = nil
	for i := range n2spec.Tags {
		n2spec.Tags[i].Bond, n2spec.Tags[i].MAC = "", n2.mac(2, 0)
	}
	n2.mustApply(t, n2spec)
	for _, mtu := range []int{1500, 9000, 1500} {
		n1.mustApply(t, n1.bonded(1, "active-backup", "", mtu))
		if got := n1.read(t).Links["bond0"].MTU; got != mtu {
			t.Errorf("bond0 has MTU %d, want %d", got, mtu)
		}
		from := labPort(2, 1, 0).MAC // on VLAN 10
		for ip, want := range map[string]bool{"10.10.0.2": true, "10.10.0.12": false, "10.10.0.11": false} {
			if got := reaches(t, from, ip); got != want {
				t.Errorf("MTU %d: VLAN 10 to %s: %v, want %v", mtu, ip, got, want)
			}
		}
		if from := labPort(3, 1, 0).MAC; !reaches(t, from, "10.10.0.12") { // on VLAN 20
			t.Errorf("MTU %d: VLAN 20 does not reach its own", mtu)
		}
		if !n1.sees(t, "10.99.99.2") {
			t.Errorf("MTU %d: the admin network was cut", mtu)
		}
	}
}

// TestRealGuard: a bond that cuts the server off is undone.
func TestRealGuard(t *testing.T) {
	n := newLab(t).server(t, 1, 4)
	n.adminNIC(t, 1)
	before := n.read(t)
	n.Confirm = func(context.Context) error { return errors.New("no route to host") }
	for _, mode := range []string{"active-backup", "802.3ad"} {
		var back *RolledBack
		if err := n.Apply(t.Context(), n.bonded(1, mode, "", 9000)); !errors.As(err, &back) {
			t.Fatalf("Apply: %v", err)
		}
		if d := cmp.Diff(infrastructureState(before).String(), infrastructureState(n.read(t)).String()); d != "" {
			t.Errorf("%s is not undone:\n%s", mode, d)
		}
	}
}

// TestRealGuardKilled: the agent is killed after each step of a change to a bond.
func TestRealGuardKilled(t *testing.T) {
	n := newLab(t).server(t, 1, 4)
	n.adminNIC(t, 1)
	before := infrastructureState(n.read(t)).String()
	admin, dir := n.Admin, n.Dir
	spec := n.bonded(1, "active-backup", "", 1500)
	for i := 1; ; i++ {
		n.open(t)
		n.Admin, n.Dir, n.Confirm = admin, dir, func(context.Context) error { return nil }
		k := &killer{System: n.kernel, left: i}
		n.System = k
		err := n.Apply(t.Context(), spec)
		if k.left > 0 {
			if err != nil {
				t.Fatalf("Apply: %v", err)
			}
			t.Logf("killed at %d places", i-1)
			return
		}
		n.System = n.kernel
		if err := n.Recover(t.Context()); err != nil {
			t.Fatalf("Recover: %v", err)
		}
		n.mustApply(t, spec)
		n.mustApply(t, api.NetworkSpec{Tags: []api.TagSpec{{Name: "admin", MTU: 1500, MAC: n.mac(1, 0)}}})
		n.ip(t, "link", "set", "eth1", "down")
		if d := cmp.Diff(before, infrastructureState(n.read(t)).String()); d != "" {
			t.Fatalf("killed after step %d, not as before:\n%s", i, d)
		}
	}
}

// TestRealAnyToAny goes from each of the unit tests' specs to each other on the
// kernel; the admin addresses are there after each, and a second Apply has nothing
// to do.
func TestRealAnyToAny(t *testing.T) {
	n := newLab(t).server(t, 1, 4)
	for i := range 4 {
		n.ip(t, "link", "set", fmt.Sprintf("eth%d", i), "address", mac(i+1))
	}
	n.adminNIC(t, 5)
	all := specs()
	for from := range all {
		for to := range all {
			n.mustApply(t, all[from])
			n.mustApply(t, all[to])
			s := n.read(t)
			if len(adminPath(s, n.Admin)) == 0 || !strings.Contains(s.String(), "fd99::5/64") || !strings.Contains(s.String(), "route 0.0.0.0/0 via 10.99.99.254") {
				t.Fatalf("from %s to %s the admin address or its routes were lost:\n%s", from, to, s)
			}
		}
	}
}
