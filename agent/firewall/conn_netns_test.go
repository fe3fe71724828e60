//go:build netns

package firewall

import (
	"context"
	"net"
	"slices"
	"testing"

	"nereid/api"
)

// routed puts the bridge's program into the inet family, whose connection tracking
// every kernel has: packets are then routed from port to port. What remains to be
// shown on a kernel with nf_conntrack_bridge is bridges and their zones, in
// firewall_vm_test.go.
type routed struct{ system }

func (r routed) commit(ctx context.Context, t *transaction) error {
	moved := *t
	moved.addCounters = slices.Clone(t.addCounters)
	for i := range moved.addCounters {
		routedTable(&moved.addCounters[i].table)
	}
	chains := func(cs []chain) []chain {
		cs = slices.Clone(cs)
		for i, c := range cs {
			routedTable(&cs[i].table)
			if c.name == "output" {
				cs[i].rules = nil // what the router itself sends has no Ethernet header there
				continue
			}
			cs[i].rules = slices.DeleteFunc(slices.Clone(c.rules), func(r rule) bool {
				return slices.ContainsFunc(r, func(e expression) bool { m, ok := e.(loadMeta); return ok && m.key == ibrname })
			})
		}
		return cs
	}
	moved.addChains, moved.delChains = chains(t.addChains), chains(t.delChains)
	moved.addSets = movedSets(t.addSets)
	elements := func(es []setElements) []setElements {
		es = slices.Clone(es)
		for i := range es {
			routedTable(&es[i].set.table)
		}
		return es
	}
	moved.addElements, moved.delElements = elements(t.addElements), elements(t.delElements)
	return r.system.commit(ctx, &moved)
}

func routedTable(t *table) {
	if *t == bridgeTable {
		*t = inetTable
	}
}

func movedSets(sets []set) []set {
	sets = slices.Clone(sets)
	for i := range sets {
		routedTable(&sets[i].table)
	}
	return sets
}

func (r routed) read(ctx context.Context, only []chain, sets []set) (*contents, error) {
	return r.system.read(ctx, only, movedSets(sets))
}

// TestNetNSTracking: connections of real systems, by IPv4 and IPv6, through a
// router that has the firewall's program.
func TestNetNSTracking(t *testing.T) {
	nodes := map[string]*node{"nic1": newNode(t, "nic1"), "nic2": newNode(t, "nic2")}
	p := pair{server: nodes["nic1"], client: nodes["nic2"], serverPort: testPort(1, true), clientPort: testPort(2, true), addresses: []string{"10.1.0.1", "fd01::1"}}
	p.serverPort.Addresses = []api.PortAddress{{Address: "10.1.0.1/24"}, {Address: "fd01::1/64"}}
	p.clientPort.Addresses = []api.PortAddress{{Address: "10.2.0.1/24"}, {Address: "fd02::1/64"}}
	command(t, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
	for name, gw := range map[string][2]string{"nic1": {"10.1.0.254", "fd01::fe"}, "nic2": {"10.2.0.254", "fd02::fe"}} {
		command(t, "sysctl -qw net.ipv6.conf."+name+".disable_ipv6=0")
		command(t, "ip addr add "+gw[0]+"/24 dev "+name)
		command(t, "ip addr add "+gw[1]+"/64 dev "+name+" nodad")
	}
	for _, n := range []struct {
		*node
		port   Port
		v4, v6 string
	}{{p.server, p.serverPort, "10.1.0.254", "fd01::fe"}, {p.client, p.clientPort, "10.2.0.254", "fd02::fe"}} {
		n.run(t, "ip addr add "+n.port.Addresses[0].Address+" dev eth0")
		n.run(t, "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0")
		n.addIPv6(t, n.port.Addresses[1].Address)
		n.run(t, "ip route add default via "+n.v4)
		n.run(t, "ip route add default via "+n.v6)
	}
	f := newFirewall(t)
	f.Stateless, f.kernel = false, routed{}
	proveTracking(t, f, p, Options{})
	link, err := net.InterfaceByName("nic2")
	if err != nil {
		t.Fatal(err)
	}
	p.stray(t, f, [6]byte(link.HardwareAddr))
	t.Log(command(t, "nft list chain inet "+tableName+" judge"))
	command(t, "nft list ruleset")
}
