//go:build vm

package fabric

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"nereid/api"
	"nereid/integration/lab"
	"nereid/integration/lab/labtest"
)

// rack is the standard rack, operated by the operator's program.
type rack struct {
	operator
	servers []*lab.Machine
	dumped  bool
}

func newRack(t *testing.T) *rack {
	r := labtest.Standard(t)
	return &rack{operator: operator{r}, servers: r.Machines()}
}

// network makes a network of an account's fabric until the test ends.
func (r *rack) network(owner, vlan, name, subnet, gateway string, more ...string) string {
	r.T.Helper()
	uuid := r.operator.network(owner, vlan, name, subnet, gateway, more...)
	r.Undo("fabric", "network", "delete", owner, vlan, uuid, "--yes")
	return uuid
}

// nic makes a NIC with an address of each family on a VLAN's networks, and waits
// until it is there.
func (r *rack) nic(owner, four, six, ip string, on *lab.Machine) api.NetworkNIC {
	r.T.Helper()
	n := r.createNIC(owner, on.Spec.Name, four+"="+ip, six+"="+sixOf(ip))
	r.Undo("nic", "delete", n.MAC, "--yes")
	r.await(on, "ip netns exec "+namespace(n)+" ip -o addr show | grep -qF ' "+sixOf(ip)+"/'")
	return n
}

// sixOf is fd00:V::H for 10.0.V.H.
func sixOf(ip string) string {
	f := strings.Split(ip, ".")
	return "fd00:" + f[2] + "::" + f[3]
}

// await runs a line in a server until it succeeds.
func (r *rack) await(m *lab.Machine, line string) {
	r.T.Helper()
	out := r.Shell(m, "( for i in $(seq 45); do if { "+line+"; } 2>/dev/null; then echo done; exit 0; fi; sleep 1; done; echo failed; "+
		"ip -br link; ip netns; journalctl -u nereid-agent -n 30 --no-pager -o cat; exit 0 )")
	if !strings.HasPrefix(out, "done") {
		r.T.Fatalf("%s on %s: not within a minute\n%s", line, m.Spec.Name, out)
	}
}

// dump logs, the first time, what the servers' links, neighbours and counters are.
func (r *rack) dump() {
	r.T.Helper()
	if r.dumped {
		return
	}
	r.dumped = true
	for _, m := range r.servers {
		r.T.Logf("%s:\n%s", m.Spec.Name, r.Shell(m, "(ip -s link; ip -s -4 neigh; ip -4 route; nft list counters; grep virtio /proc/interrupts; dmesg | tail -n 20; "+
			"journalctl -u nereid-agent -n 20 --no-pager -o cat) 2>&1 || true"))
	}
}

// reaches wants pings from a NIC to an address to get through, or not; to one of
// 10.0.V.H also in IPv6.
func (r *rack) reaches(m *lab.Machine, from api.NetworkNIC, to string, want bool) {
	r.T.Helper()
	all := []string{to}
	if strings.HasPrefix(to, "10.0.") {
		all = append(all, sixOf(to))
	}
	for _, to := range all {
		out := r.Shell(m, "ip netns exec "+namespace(from)+" ping -n -c 3 -i 0.3 -W 2 "+to+" 2>&1 || true")
		if got := strings.Contains(out, ", 0% packet loss") || strings.Contains(out, "bytes from"); got != want {
			r.T.Errorf("%s on %s reaches %s: %v, want %v\n%s", from.Addresses[0].IP, m.Spec.Name, to, got, want, out)
			r.dump()
		}
	}
}

// TestVMFabric: two accounts with the same subnets on two servers.
func TestVMFabric(t *testing.T) {
	r := newRack(t)
	one, two := r.servers[0], r.servers[1]
	uuid := map[string]string{}
	for _, owner := range []string{alice, bob} {
		for vlan, name := range map[string]string{"2": "web", "3": "db"} {
			r.nereid("fabric", "vlan", "create", owner, vlan, "--name", name)
			r.Undo("fabric", "vlan", "delete", owner, vlan, "--yes")
			uuid[owner+name] = r.network(owner, vlan, name, "10.0."+vlan+".0/24", "10.0."+vlan+".1", "--internet-nat")
			uuid[owner+name+"6"] = r.network(owner, vlan, name+"6", "fd00:"+vlan+"::/64", "fd00:"+vlan+"::1")
		}
	}
	a1 := r.nic(alice, uuid[alice+"web"], uuid[alice+"web6"], "10.0.2.5", one)
	a2 := r.nic(alice, uuid[alice+"web"], uuid[alice+"web6"], "10.0.2.6", two)
	a3 := r.nic(alice, uuid[alice+"db"], uuid[alice+"db6"], "10.0.3.6", two)
	b1 := r.nic(bob, uuid[bob+"web"], uuid[bob+"web6"], "10.0.2.5", two)
	b2 := r.nic(bob, uuid[bob+"web"], uuid[bob+"web6"], "10.0.2.7", one)

	t.Run("named namespaces are the system's", func(t *testing.T) {
		for m, n := range map[*lab.Machine]api.NetworkNIC{one: a1, two: a2} {
			if out := r.Shell(m, "grep -c ' /run/netns/"+namespace(n)+" nsfs ' /proc/1/mounts || true"); strings.TrimSpace(out) == "0" {
				t.Errorf("%s, which the agent of %s made, is not in PID 1's mounts", namespace(n), m.Spec.Name)
			}
		}
	})
	t.Run("a NIC answers ARP for its own addresses only", func(t *testing.T) {
		for _, m := range r.servers {
			if out := r.Shell(m, "cat /proc/sys/net/ipv4/conf/all/arp_ignore /proc/sys/net/ipv4/conf/all/arp_announce"); strings.Join(strings.Fields(out), " ") != "1 2" {
				t.Errorf("arp_ignore and arp_announce of %s are %q, want 1 2", m.Spec.Name, out)
			}
		}
	})
	t.Run("blocked until a rule allows", func(t *testing.T) { r.reaches(one, a1, "10.0.2.6", false) })
	for _, owner := range []string{alice, bob} {
		for _, protocol := range []string{"icmp", "icmp6"} {
			var rule api.FirewallRule
			r.read(&rule, "firewall", "create", "FROM all vms TO all vms ALLOW "+protocol+" TYPE ALL", "--owner", owner)
			r.Undo("firewall", "delete", rule.UUID, "--yes")
		}
	}
	r.settled()
	t.Run("one segment, two servers", func(t *testing.T) {
		r.reaches(one, a1, "10.0.2.6", true)
		r.reaches(two, a2, "10.0.2.5", true)
		r.reaches(two, b1, "10.0.2.7", true)
		r.reaches(one, b2, "10.0.2.5", true)
	})
	t.Run("routed", func(t *testing.T) {
		r.reaches(one, a1, "10.0.3.6", true)
		r.reaches(two, a3, "10.0.2.5", true)
		r.reaches(two, a3, "10.0.2.6", true)
	})
	t.Run("accounts do not meet", func(t *testing.T) {
		r.reaches(one, a1, "10.0.2.7", false)
		r.reaches(one, b2, "10.0.2.6", false)
		r.reaches(one, b2, "10.0.3.6", false)
	})
	t.Run("nothing of the server is reached", func(t *testing.T) {
		r.reaches(one, a1, "10.77.0.11", false)
		r.reaches(one, a1, "10.99.99.7", false)
	})
	t.Run("head node away", func(t *testing.T) {
		r.KillHeadnode()
		r.Shell(one, "systemctl restart nereid-agent")
		r.reaches(one, a1, "10.0.2.6", true)
		r.reaches(two, a3, "10.0.2.5", true)
		r.Start()
		r.settled()
		r.reaches(one, a1, "10.0.2.6", true)
	})
	t.Run("repaired", func(t *testing.T) {
		r.Shell(one, "ip link set vx$(ip -o link show type vxlan | grep -o 'vx[0-9]*' | head -n1 | cut -c3-) down; ip link del np"+strings.ReplaceAll(a1.MAC, ":", ""))
		r.await(one, "ip netns exec "+namespace(a1)+" ip -o addr show | grep -qF ' 10.0.2.5/'")
		r.await(one, "ip netns exec "+namespace(a1)+" ping -n -c 1 -W 1 10.0.2.6 >/dev/null 2>&1")
	})
	t.Run("moved", func(t *testing.T) {
		r.nereid("nic", "move", a2.MAC, "cn1")
		r.await(one, "ip netns exec "+namespace(a2)+" ip -o addr show | grep -qF ' 10.0.2.6/'")
		r.settled()
		r.reaches(one, a1, "10.0.2.6", true)
		r.reaches(two, a3, "10.0.2.6", true)
	})
	t.Run("NAT, and a lost uplink", func(t *testing.T) {
		address := r.Outside()
		outside := func() {
			t.Helper()
			r.settled()
			for _, from := range []api.NetworkNIC{a1, b2} {
				r.Answers(one, "ip netns exec "+namespace(from), address)
			}
			r.Answers(two, "ip netns exec "+namespace(a3), address)
		}
		r.settled()
		for _, m := range r.servers { // a link is used when it was good for a while
			r.Wait(m, "has its uplink", func(v api.Server) bool { return len(v.Report.NICTagsDown) == 0 })
		}
		outside()
		lose := func(lost bool) {
			t.Helper()
			if err := one.DataLink(t.Context(), 1, !lost); err != nil {
				t.Fatal(err)
			}
			r.Wait(one, fmt.Sprintf("says that its uplink is lost: %v", lost), func(v api.Server) bool { return v.Report != nil && (len(v.Report.NICTagsDown) > 0) == lost })
			outside()
		}
		lose(true)
		if out := r.nereid("network", "trace", a1.MAC, address, "--proto", "icmp"); !strings.Contains(out, "by the gateway servers cn2") {
			t.Errorf("the trace says\n%s", out)
		}
		lose(false)
		if out := r.nereid("network", "trace", a1.MAC, address, "--proto", "icmp"); !strings.Contains(out, "of this server") {
			t.Errorf("the trace says\n%s", out)
		}
	})
	t.Run("bonds", func(t *testing.T) {
		// The underlay moves to a bond of its NIC, and then to two cables from server to
		// server, while it is in use.
		for _, m := range r.servers {
			r.nereid("bond", "set", m.Spec.Name, "bond0", m.Spec.DataMACs[0], "--nic-tag", "underlay")
			r.Undo("bond", "delete", m.Spec.Name, "bond0", "--yes")
			r.Undo("nictag", "provide", m.Spec.Name, m.Spec.DataMACs[0], "underlay", "--yes")
		}
		r.settled()
		r.reaches(two, a3, "10.0.2.6", true)
		for _, m := range r.servers {
			r.nereid("bond", "set", m.Spec.Name, "bond0", m.Spec.Cables[0].MAC, m.Spec.Cables[1].MAC,
				"--mode", "802.3ad", "--lacp-rate", "fast", "--nic-tag", "underlay")
		}
		r.settled()
		lacp := func(m *lab.Machine, want int) {
			t.Helper()
			var s api.Server
			r.Wait(m, fmt.Sprintf("collecting on bond0 and %d NICs", want-1), func(v api.Server) bool {
				s = v
				return v.Usage != nil && v.Usage.Network != nil && collecting(v) == want
			})
			if out := r.nereid("server", "nics", s.Hostname); strings.Count(out, "collecting") != want {
				t.Errorf("server nics %s:\n%s", s.Hostname, out)
			}
		}
		lacp(one, 3)
		lacp(two, 3)
		r.reaches(one, a1, "10.0.2.6", true)
		r.reaches(two, a3, "10.0.2.6", true)
		r.reaches(two, b1, "10.0.2.7", true)
		for _, m := range r.servers {
			if err := m.CableLink(t.Context(), 0, false); err != nil {
				t.Fatal(err)
			}
			r.T.Cleanup(func() { m.CableLink(context.WithoutCancel(r.T.Context()), 0, true) })
		}
		lacp(one, 2)
		r.await(two, "ip netns exec "+namespace(a3)+" ping -n -c 1 -W 1 10.0.2.6 >/dev/null 2>&1")
		r.reaches(two, a3, "10.0.2.5", true)
	})
	for _, m := range r.servers {
		t.Logf("%s: agent %s", m.Spec.Name, r.Shell(m, `grep VmRSS /proc/$(systemctl show -p MainPID --value nereid-agent)/status`))
	}
}

// collecting counts the links of a server that take frames by LACP.
func collecting(s api.Server) int {
	n := 0
	for _, l := range s.Usage.Network.Links {
		if l.LACP == "collecting" {
			n++
		}
	}
	return n
}

// settled waits until every server has applied what is wanted of it.
func (r *rack) settled() {
	r.T.Helper()
	for _, m := range r.servers {
		r.Wait(m, "at the newest spec", func(s api.Server) bool {
			return s.NetworkApplied && len(s.Report.Problems) == 0
		})
	}
}
