package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
)

// fullSpec is a server with a NIC on a VNI, one on a VLAN of a bond, and rules.
func fullSpec() *api.NetworkSpec {
	return &api.NetworkSpec{
		Bonds:    []api.BondSpec{{Name: "bond0", MACs: []string{"52:54:00:00:00:01", "52:54:00:00:00:02"}, Mode: "active-backup"}},
		Tags:     []api.TagSpec{{Name: "admin", MTU: 1500, Bond: "bond0"}, {Name: "external", MTU: 1500, Bond: "bond0"}, {Name: "storage", MTU: 9000, MAC: "52:54:00:00:00:04"}, {Name: "underlay", MTU: 9000, MAC: "52:54:00:00:00:03"}},
		Underlay: &api.UnderlaySpec{Tag: "underlay", MTU: 9000, Address: "10.77.0.11/24", Subnets: []string{"10.77.0.0/24"}},
		VNIs:     []api.VNISpec{{VNI: 7, Owner: "a", MTU: 1450}, {VNI: 9, Owner: "a", MTU: 1450}, {VNI: 70, Owner: "a", MTU: 1450}, {VNI: 8, Owner: "b", MTU: 1450}},
		Routers: []api.RouterSpec{
			{Owner: "a", Networks: []api.RouterNetwork{{VNI: 7, Gateway: "10.0.0.1/24", InternetNAT: true}, {VNI: 9, Gateway: "10.0.9.1/24"}}, NAT: &api.NATSpec{VNI: 70, Transit: "100.64.0.11/24"}},
			{Owner: "b", Networks: []api.RouterNetwork{{VNI: 8, Gateway: "10.0.0.1/24"}}}},
		Ports: []api.PortSpec{
			{MAC: "02:00:00:00:00:07", Instance: "i7", Owner: "a", VNI: 7, Firewall: true, Addresses: []api.PortAddress{{Address: "10.0.0.7/24"}}},
			{MAC: "02:00:00:00:00:08", Instance: "i8", Owner: "b", VNI: 8, Firewall: true, Addresses: []api.PortAddress{{Address: "10.0.0.7/24"}}},
			{MAC: "02:00:00:00:00:0e", Instance: "i7", Owner: "a", Tag: "external", VLAN: 10, Firewall: true}},
		Firewall: api.FirewallSpec{
			Sets: []api.AddressSet{{Name: "web", Members: []string{"10.0.0.9"}}, {Name: "b", Members: []string{"10.0.0.8"}}},
			Rules: []api.FirewallEntry{
				{Rule: "1", Direction: "in", Ports: []string{"02:00:00:00:00:07", "02:00:00:00:00:0e"}, Peers: []string{"web"}, Action: "allow", Protocol: "tcp"},
				{Rule: "2", Direction: "in", Ports: []string{"02:00:00:00:00:08"}, Peers: []string{"b"}, Action: "allow", Protocol: "tcp"}}},
	}
}

// What the head node names neither as there nor as gone stays, with all that it needs
// and nothing that it does not.
func TestKeepNICs(t *testing.T) {
	whole := fullSpec()
	with := func(change func(*api.NetworkSpec)) *api.NetworkSpec {
		s := fullSpec()
		change(s)
		return s
	}
	drop := func(s *api.NetworkSpec, port int) { s.Ports = append(s.Ports[:port:port], s.Ports[port+1:]...) }
	for _, c := range []struct {
		name     string
		next     *api.NetworkSpec
		kept     string // MACs' ends
		vnis     []uint32
		tags     string // name=provider
		routers  string
		rules    string // rule: ports' ends <- members
		underlay bool
	}{
		{name: "the same", next: fullSpec(), vnis: []uint32{7, 9, 70, 8}, tags: "admin=bond0 external=bond0 storage=04 underlay=03", routers: "a:7,9+70 b:8",
			rules: "1:07,0e<-10.0.0.9 2:08<-10.0.0.8", underlay: true},
		{name: "a head node that says nothing", next: nil, vnis: []uint32{7, 9, 70, 8}, tags: "admin=bond0 external=bond0 storage=04 underlay=03", routers: "a:7,9+70 b:8",
			rules: "1:07,0e<-10.0.0.9 2:08<-10.0.0.8", underlay: true},
		{name: "a head node that has no NICs at all", next: &api.NetworkSpec{}, kept: "07 08 0e", vnis: []uint32{7, 8, 9, 70},
			tags: "external=bond0 underlay=03", routers: "a:7,9+70 b:8", rules: "1:07,0e<-10.0.0.9 2:08<-10.0.0.8", underlay: true},
		{name: "one is gone, the others are not named", next: &api.NetworkSpec{Gone: []api.GoneNIC{{ID: "x", MAC: "02:00:00:00:00:07", Instance: "i7"}}},
			kept: "08 0e", vnis: []uint32{8}, tags: "external=bond0 underlay=03", routers: "b:8", rules: "1:0e<-10.0.0.9 2:08<-10.0.0.8", underlay: true},
		{name: "gone is another instance's", next: &api.NetworkSpec{Gone: []api.GoneNIC{{ID: "x", MAC: "02:00:00:00:00:0e", Instance: "i1"}}},
			kept: "07 08 0e", vnis: []uint32{7, 8, 9, 70}, tags: "external=bond0 underlay=03", routers: "a:7,9+70 b:8", rules: "1:07,0e<-10.0.0.9 2:08<-10.0.0.8", underlay: true},
		{name: "a bond that the head node does not know", next: &api.NetworkSpec{Tags: []api.TagSpec{{Name: "admin", MTU: 1500, MAC: "52:54:00:00:00:01"}}},
			kept: "07 08 0e", vnis: []uint32{7, 8, 9, 70}, tags: "admin=bond0 external=bond0 underlay=03", routers: "a:7,9+70 b:8", rules: "1:07,0e<-10.0.0.9 2:08<-10.0.0.8", underlay: true},
		{name: "the bond has another name", next: &api.NetworkSpec{Bonds: []api.BondSpec{{Name: "up", MACs: []string{"52:54:00:00:00:01"}}}},
			kept: "07 08 0e", vnis: []uint32{7, 8, 9, 70}, tags: "external=up underlay=03", routers: "a:7,9+70 b:8", rules: "1:07,0e<-10.0.0.9 2:08<-10.0.0.8", underlay: true},
		{name: "the router stays without the NIC's network", next: with(func(s *api.NetworkSpec) {
			drop(s, 0)
			s.VNIs, s.Routers[0].Networks = s.VNIs[1:], s.Routers[0].Networks[1:]
			s.Firewall.Sets[0].Members = []string{"10.0.0.99"}
			s.Firewall.Rules[0].Ports = s.Firewall.Rules[0].Ports[1:]
		}), kept: "07", vnis: []uint32{7, 8, 9, 70}, tags: "admin=bond0 external=bond0 storage=04 underlay=03", routers: "a:9,7+70 b:8",
			rules: "1:0e<-10.0.0.99 2:08<-10.0.0.8 1:07<-10.0.0.9", underlay: true},
		{name: "the router stays, and has no NAT any more", next: with(func(s *api.NetworkSpec) {
			drop(s, 0)
			s.VNIs = slices.Delete(s.VNIs, 2, 3)
			s.Firewall.Rules[0].Ports = s.Firewall.Rules[0].Ports[1:]
			s.Routers[0].NAT = nil
		}), kept: "07", vnis: []uint32{7, 8, 9, 70}, tags: "admin=bond0 external=bond0 storage=04 underlay=03", routers: "a:7,9+70 b:8",
			rules: "1:0e<-10.0.0.9 2:08<-10.0.0.8 1:07<-10.0.0.9", underlay: true},
		{name: "the same, and nobody has internet_nat any more", next: with(func(s *api.NetworkSpec) {
			drop(s, 0)
			s.VNIs = slices.Delete(s.VNIs, 2, 3)
			s.Firewall.Rules[0].Ports = s.Firewall.Rules[0].Ports[1:]
			s.Routers[0].NAT, s.Routers[0].Networks[0].InternetNAT = nil, false
		}), kept: "07", vnis: []uint32{7, 8, 9}, tags: "admin=bond0 external=bond0 storage=04 underlay=03", routers: "a:7,9 b:8",
			rules: "1:0e<-10.0.0.9 2:08<-10.0.0.8 1:07<-10.0.0.9", underlay: true},
		{name: "all are gone", next: &api.NetworkSpec{Gone: []api.GoneNIC{{MAC: "02:00:00:00:00:07"}, {MAC: "02:00:00:00:00:08"}, {MAC: "02:00:00:00:00:0e"}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := fullSpec()
			got := keepNICs(before, c.next)
			if d := cmp.Diff(whole, before); d != "" {
				t.Errorf("changes what was before:\n%s", d)
			}
			end := func(mac string) string { return mac[15:] }
			var kept, tags, routers, rules []string
			if got.Kept != nil {
				for _, m := range got.Kept.NICs {
					kept = append(kept, end(m))
				}
			}
			for _, x := range got.Tags {
				provider := x.Bond
				if x.MAC != "" {
					provider = end(x.MAC)
				}
				tags = append(tags, x.Name+"="+provider)
			}
			for _, r := range got.Routers {
				var on []string
				for _, n := range r.Networks {
					on = append(on, string(rune('0'+n.VNI)))
				}
				text := r.Owner + ":" + strings.Join(on, ",")
				if r.NAT != nil {
					text += fmt.Sprint("+", r.NAT.VNI)
				}
				routers = append(routers, text)
			}
			members := map[string]string{}
			for _, s := range got.Firewall.Sets {
				members[s.Name] = strings.Join(s.Members, ",")
			}
			for _, r := range got.Firewall.Rules {
				var ports, from []string
				for _, p := range r.Ports {
					ports = append(ports, end(p))
				}
				for _, p := range r.Peers {
					from = append(from, members[p])
				}
				rules = append(rules, r.Rule+":"+strings.Join(ports, ",")+"<-"+strings.Join(from, ","))
			}
			var vnis []uint32
			for _, v := range got.VNIs {
				vnis = append(vnis, v.VNI)
			}
			type what struct {
				Kept, Tags, Routers, Rules string
				VNIs                       []uint32
				Underlay                   bool
			}
			want := what{c.kept, c.tags, c.routers, c.rules, c.vnis, c.underlay}
			have := what{strings.Join(kept, " "), strings.Join(tags, " "), strings.Join(routers, " "), strings.Join(rules, " "), vnis, got.Underlay != nil}
			if d := cmp.Diff(want, have); d != "" {
				t.Error(d)
			}
			// The same again changes nothing, however often.
			if c.next != nil {
				if d := cmp.Diff(got, keepNICs(got, c.next)); d != "" {
					t.Errorf("a second time:\n%s", d)
				}
			}
		})
	}
}

// A head node that was restored from a backup cuts nothing off, nor does a restart of
// the agent; a NIC that it says is gone goes.
func TestRestoredHeadNodeCutsNothingOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, n, dir := newWorld(), newHeadNode(t), newWire(), t.TempDir()
		h.approved, h.spec = true, networkSpec("r1")
		h.spec.Setup = setupSpec("r1").Setup
		r := start(t, w, h, dir, func(a *Agent) { a.Net = n.net() })
		h.until("network", func(s api.SyncRequest) bool {
			return s.Report.AppliedNetwork == "r1" && s.Report.AppliedSpec == "r1"
		})
		n.did()
		restored := &api.Spec{Revision: "r2", Hostname: "cn01", Setup: h.spec.Setup, Network: &api.NetworkSpec{}}
		h.set(func() { h.spec = restored })
		applied := func(rev string) func(api.SyncRequest) bool {
			return func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == rev && s.Report.AppliedSpec == rev }
		}
		const whole = "firewall 1 ports, isolated [vb7]\nlinks 0 ports 1 VNIs\nrouters 1"
		s := h.until("restored", applied("r2"))
		if got := n.did(); got != strings.TrimPrefix(whole, "firewall 1 ports, isolated [vb7]\n") || n.hasRules() != "02:6e:72:00:00:01" {
			t.Errorf("with a restored head node did\n%s", got)
		}
		if u := s.Report.UnexpectedNICs; len(u) != 1 || u[0].MAC != "02:6e:72:00:00:01" {
			t.Errorf("reported %+v", u)
		}
		time.Sleep(time.Minute)
		if last, _ := h.last(); len(last.Follow) != 3 { // but for the ports, the global rules and its NAT: they would be refused
			t.Errorf("asks for the sets %+v", last.Follow)
		}
		if s, _ := h.last(); len(s.Report.Problems) > 0 {
			t.Errorf("problems %q", s.Report.Problems)
		}

		// The next agent knows it as well, of this boot and of the next one, with the
		// head node away.
		for _, d := range []string{dir, t.TempDir()} {
			r.stop()
			n.did()
			h.set(func() { h.down = true })
			r = start(t, w, h, d, func(a *Agent) { a.Net = n.net() })
			time.Sleep(10 * time.Second)
			if got := n.did(); got != "recover\n"+whole {
				t.Errorf("after a restart did\n%s", got)
			}
			h.set(func() { h.down = false })
			h.until("again", func(s api.SyncRequest) bool { return len(s.Report.UnexpectedNICs) == 1 && s.Seen == "r2" })
		}

		gone := *restored
		gone.Revision, gone.Network = "r3", &api.NetworkSpec{Gone: []api.GoneNIC{{ID: "g1", MAC: "02:6e:72:00:00:01"}}}
		n.did()
		h.set(func() { h.spec = &gone })
		s = h.until("gone", applied("r3"))
		if got := n.did(); got != "firewall 0 ports, isolated []\nlinks 0 ports 0 VNIs\nrouters 0" {
			t.Errorf("when it is gone did\n%s", got)
		}
		if left := knownPorts(r.ports); len(s.Report.UnexpectedNICs) > 0 || left != "" {
			t.Errorf("reported %+v, still known %s", s.Report.UnexpectedNICs, left)
		}
		r.stop()
	})
}
