package router

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
)

// TestBuild: VNIs and routers are what head nodes put into specs before they were computed
// here; the expected values are those that the head node's builder gave.
func TestBuild(t *testing.T) {
	net := func(vni uint32, mtu int, gateway string, nat bool) api.AccountNetwork {
		n := api.AccountNetwork{UUID: gateway, MTU: mtu, RouterNetwork: api.RouterNetwork{VNI: vni, Gateway: gateway, InternetNAT: nat}}
		if gateway != "" {
			n.MAC = "06:6e:72:00:00:07"
		}
		return n
	}
	on := func(vni uint32, gateway string, nat bool) api.RouterNetwork {
		return api.RouterNetwork{VNI: vni, Gateway: gateway, MAC: "06:6e:72:00:00:07", InternetNAT: nat}
	}
	gateways := func(addresses ...string) api.AccountNAT {
		n := api.AccountNAT{UUID: api.GatewaysKey, VNI: 70}
		for _, a := range addresses {
			n.Gateways = append(n.Gateways, api.Gateway{Server: "s" + a, Address: a})
		}
		return n
	}
	forward := func(uuid, internal string, port uint16) api.AccountNAT {
		return api.AccountNAT{UUID: uuid, Forward: &api.ForwardSpec{Protocol: "tcp", Port: port, Internal: internal}}
	}
	outside := &api.External{Tag: "external", VLAN: 7, Address: "203.0.113.5/24", Gateway: "203.0.113.1"}
	self := func(e *api.External) api.ServerNAT {
		return api.ServerNAT{UUID: api.SelfKey, Transit: "100.64.0.10/10", External: e}
	}
	local := api.NATSpec{Tag: "external", VLAN: 7, Address: "203.0.113.5/24", Gateway: "203.0.113.1"}
	asGateway := local
	asGateway.VNI, asGateway.Transit = 70, "100.64.0.10/10"
	forwarding := asGateway
	forwarding.Forwards = []api.PortForward{{Protocol: "tcp", External: "203.0.113.5:10000", Internal: "10.0.0.5:443"}}
	web := []api.AccountNetwork{net(7, 8950, "10.0.0.1/24", true)}
	router := func(n *api.NATSpec) []api.RouterSpec {
		return []api.RouterSpec{{Owner: "a", Networks: []api.RouterNetwork{on(7, "10.0.0.1/24", true)}, NAT: n}}
	}
	one := []api.VNISpec{{VNI: 7, Owner: "a", MTU: 8950}}
	two := []api.VNISpec{{VNI: 7, Owner: "a", MTU: 8950}, {VNI: 70, Owner: "a", MTU: 8950}}
	for _, c := range []struct {
		name     string
		self     api.ServerNAT
		accounts []Account
		vnis     []api.VNISpec
		routers  []api.RouterSpec
	}{
		{name: "nothing"},
		{name: "an account without networks", accounts: []Account{{Owner: "a", Hosts: []uint32{7}}}},
		{name: "no way out", accounts: []Account{{Owner: "a", Networks: web, Hosts: []uint32{7}}}, vnis: one, routers: router(nil)},
		{name: "a network without a gateway, with and without NICs", accounts: []Account{
			{Owner: "a", Networks: []api.AccountNetwork{net(7, 1400, "", false), net(8, 1400, "", false)}, Hosts: []uint32{8}}},
			vnis: []api.VNISpec{{VNI: 8, Owner: "a", MTU: 1400}}},
		{name: "all networks with gateways are routed; of a VNI's networks the smallest MTU counts; accounts and VNIs are in order", accounts: []Account{
			{Owner: "b", Networks: []api.AccountNetwork{net(3, 1400, "10.0.0.1/24", false)}, Hosts: []uint32{3}},
			{Owner: "a", Networks: []api.AccountNetwork{net(9, 1500, "10.0.9.1/24", false), net(7, 8950, "fd00::1/64", false), net(7, 1450, "10.0.0.1/24", false)}, Hosts: []uint32{7}}},
			vnis: []api.VNISpec{{VNI: 3, Owner: "b", MTU: 1400}, {VNI: 7, Owner: "a", MTU: 1450}, {VNI: 9, Owner: "a", MTU: 1500}},
			routers: []api.RouterSpec{{Owner: "a", Networks: []api.RouterNetwork{on(7, "10.0.0.1/24", false), on(7, "fd00::1/64", false), on(9, "10.0.9.1/24", false)}},
				{Owner: "b", Networks: []api.RouterNetwork{on(3, "10.0.0.1/24", false)}}}},
		{name: "no network has internet_nat", self: self(outside), accounts: []Account{{Owner: "a", Networks: []api.AccountNetwork{net(7, 8950, "10.0.0.1/24", false)}, NAT: []api.AccountNAT{gateways("100.64.0.2")}, Hosts: []uint32{7}}},
			vnis: one, routers: []api.RouterSpec{{Owner: "a", Networks: []api.RouterNetwork{on(7, "10.0.0.1/24", false)}}}},
		{name: "it does NAT itself, and nothing else is needed", self: self(outside), accounts: []Account{{Owner: "a", Networks: web, Hosts: []uint32{7}}}, vnis: one, routers: router(&local)},
		{name: "it does NAT itself, others are gateways", self: self(outside), accounts: []Account{{Owner: "a", Networks: web, NAT: []api.AccountNAT{gateways("100.64.0.2", "100.64.0.3")}, Hosts: []uint32{7}}}, vnis: one, routers: router(&local)},
		{name: "it would do NAT and has no address", self: self(&api.External{}), accounts: []Account{{Owner: "a", Networks: web, NAT: []api.AccountNAT{gateways("100.64.0.2")}, Hosts: []uint32{7}}}, vnis: one, routers: router(nil)},
		{name: "others are its gateways", self: self(nil), accounts: []Account{{Owner: "a", Networks: web, NAT: []api.AccountNAT{gateways("100.64.0.3", "100.64.0.2")}, Hosts: []uint32{7}}}, vnis: two,
			routers: router(&api.NATSpec{VNI: 70, Transit: "100.64.0.10/10", Via: []string{"100.64.0.3", "100.64.0.2"}})},
		{name: "nobody is its gateway", self: self(nil), accounts: []Account{{Owner: "a", Networks: web, NAT: []api.AccountNAT{gateways()}, Hosts: []uint32{7}}}, vnis: one, routers: router(nil)},
		{name: "it is a gateway, and has none of the account's NICs", self: self(outside), accounts: []Account{{Owner: "a", Networks: web, NAT: []api.AccountNAT{gateways("100.64.0.10", "100.64.0.2")}}}, vnis: two, routers: router(&asGateway)},
		{name: "a gateway forwards, at its own address and of its family", self: self(outside), accounts: []Account{{Owner: "a", Networks: web,
			NAT: []api.AccountNAT{forward("f1", "10.0.0.5:443", 10000), forward("f2", "[fd00::5]:443", 10001), gateways("100.64.0.2", "100.64.0.10")}, Hosts: []uint32{7}}}, vnis: two, routers: router(&forwarding)},
		{name: "where others forward to, answers go back over the transit VNI", self: self(outside), accounts: []Account{{Owner: "a", Networks: web,
			NAT: []api.AccountNAT{forward("f1", "10.0.0.5:443", 10000), gateways("100.64.0.2", "100.64.0.3")}, Hosts: []uint32{7}}}, vnis: two, routers: router(&asGateway)},
	} {
		t.Run(c.name, func(t *testing.T) {
			vnis, routers := Build(c.self, c.accounts)
			if d := cmp.Diff(c.vnis, vnis); d != "" {
				t.Errorf("VNIs (-want +got):\n%s", d)
			}
			if d := cmp.Diff(c.routers, routers); d != "" {
				t.Errorf("routers (-want +got):\n%s", d)
			}
		})
	}
}
