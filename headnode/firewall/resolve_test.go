package firewall

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
)

const (
	alice = "aaaaaaaa-0000-4000-8000-000000000001"
	bob   = "bbbbbbbb-0000-4000-8000-000000000002"
)

func uuid(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// stage is three instances of alice and one of bob; one of alice's is elsewhere.
func stage() ([]Instance, []api.PortSpec) {
	instances := []Instance{
		{UUID: uuid(1), Owner: alice, Tags: map[string]string{"role": "web"}, Addresses: addrs("10.0.0.1", "fd00::1")},
		{UUID: uuid(2), Owner: alice, Tags: map[string]string{"role": "db", "big": "true"}, Addresses: addrs("10.0.0.2", "10.0.0.2")},
		{UUID: uuid(3), Owner: alice, Tags: map[string]string{"role": "web"}, Addresses: addrs("10.0.0.3")},
		{UUID: uuid(4), Owner: bob, Tags: map[string]string{"role": "web"}, Addresses: addrs("10.0.0.4", "192.0.2.4")},
	}
	ports := []api.PortSpec{
		{MAC: "02:00:00:00:00:01", Instance: uuid(1), Owner: alice, Firewall: true},
		{MAC: "02:00:00:00:00:02", Instance: uuid(2), Owner: alice, Firewall: true},
		{MAC: "02:00:00:00:00:04", Instance: uuid(4), Owner: bob, Firewall: true},
		{MAC: "02:00:00:00:01:04", Instance: uuid(4), Owner: bob, Firewall: true},
		{MAC: "02:00:00:00:02:04", Instance: uuid(4), Owner: bob},
	}
	return instances, ports
}

// show prints a spec with the members in place of the sets' names.
func show(spec api.FirewallSpec) string {
	members := make(map[string]string)
	for _, s := range spec.Sets {
		kind, _, _ := strings.Cut(s.Name, "_")
		members[s.Name] = kind + "(" + strings.Join(s.Members, " ") + ")"
	}
	var b strings.Builder
	for _, e := range spec.Rules {
		var peers []string
		for _, p := range e.Peers {
			peers = append(peers, members[p])
		}
		slices.Sort(peers)
		var ports []string
		for _, m := range e.Ports {
			ports = append(ports, m[len(m)-5:])
		}
		fmt.Fprintf(&b, "%s %s %s peers[%s] %s %s %d\n", e.Rule[34:], e.Direction, strings.Join(ports, ","), strings.Join(peers, " "), e.Action, e.Protocol, e.Priority)
	}
	return b.String()
}

func TestSpec(t *testing.T) {
	own := func(rules ...string) []api.FirewallRule {
		var out []api.FirewallRule
		for i, text := range rules {
			r := api.FirewallRule{UUID: uuid(i + 1), Rule: text, Enabled: true, Owner: alice}
			if global, ok := strings.CutPrefix(text, "global: "); ok {
				r.Rule, r.Owner, r.Global = global, "", true
			}
			if logged, ok := strings.CutPrefix(r.Rule, "log: "); ok {
				r.Rule, r.Log = logged, true
			}
			if off, ok := strings.CutPrefix(r.Rule, "off: "); ok {
				r.Rule, r.Enabled = off, false
			}
			out = append(out, r)
		}
		return out
	}
	tests := []struct {
		name  string
		rules []api.FirewallRule
		want  string
	}{
		{"no rules", nil, ""},
		{"a tag's instances, of the owner only", own("FROM any TO tag role = web ALLOW tcp PORT 80"),
			"01 in 00:01 peers[] allow tcp 0\n"},
		{"global", own("global: FROM any TO tag role = web ALLOW tcp PORT 80"),
			"01 in 00:01,00:04,01:04 peers[] allow tcp 0\n"},
		{"disabled", own("off: FROM any TO tag role = web ALLOW tcp PORT 80"), ""},
		{"peers elsewhere", own("FROM tag role = web TO tag big ALLOW tcp PORT 5432"),
			"01 in 00:02 peers[tag(10.0.0.1 10.0.0.3 fd00::1)] allow tcp 0\n"},
		{"outwards", own("FROM tag role = web TO (tag big OR ip 192.0.2.1 OR subnet 198.51.100.0/24) BLOCK tcp PORT 25"),
			"01 out 00:01 peers[ip(192.0.2.1 198.51.100.0/24) tag(10.0.0.2)] block tcp 0\n"},
		{"both directions: inwards BLOCK is idle", own("FROM all vms TO all vms BLOCK icmp TYPE ALL"),
			"01 out 00:01,00:02 peers[all(10.0.0.1 10.0.0.2 10.0.0.3 fd00::1)] block icmp 0\n"},
		{"both directions: outwards ALLOW is idle", own("FROM all vms TO all vms ALLOW icmp TYPE ALL"),
			"01 in 00:01,00:02 peers[all(10.0.0.1 10.0.0.2 10.0.0.3 fd00::1)] allow icmp 0\n"},
		{"a global rule knows everybody", own("global: FROM all vms TO vm " + uuid(2) + " ALLOW ah"),
			"01 in 00:02 peers[all(10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4 192.0.2.4 fd00::1)] allow ah 0\n"},
		{"no instance of others", own("FROM any TO vm "+uuid(4)+" ALLOW tcp PORT 80", "FROM vm "+uuid(4)+" TO all vms ALLOW tcp PORT 80"), ""},
		{"nobody has the tag: not everybody", own("FROM tag nobody TO all vms ALLOW tcp PORT 80"), ""},
		{"an address in TO is no port", own("FROM any TO (ip 10.0.0.1 OR tag big) ALLOW tcp PORT 80"),
			"01 in 00:02 peers[] allow tcp 0\n"},
		{"an instance twice on a side", own("FROM any TO (tag big OR tag role = web OR vm " + uuid(2) + ") ALLOW tcp PORT 80"),
			"01 in 00:01,00:02 peers[] allow tcp 0\n"},
		{"BLOCK over ALLOW", own("FROM any TO all vms ALLOW tcp PORT 22", "FROM ip 192.0.2.1 TO all vms BLOCK tcp PORT 22 PRIORITY 1"),
			"01 in 00:01,00:02 peers[] allow tcp 0\n02 in 00:01,00:02 peers[ip(192.0.2.1)] block tcp 1\n"},
		{"BLOCK where there is ALLOW", own("FROM any TO tag big ALLOW tcp PORT 22", "FROM ip 192.0.2.1 TO all vms BLOCK tcp PORT 22 PRIORITY 1"),
			"01 in 00:02 peers[] allow tcp 0\n02 in 00:02 peers[ip(192.0.2.1)] block tcp 1\n"},
		{"BLOCK of the same priority", own("FROM any TO all vms ALLOW tcp PORT 22 PRIORITY 1", "FROM ip 192.0.2.1 TO all vms BLOCK tcp PORT 22 PRIORITY 1"),
			"01 in 00:01,00:02 peers[] allow tcp 1\n"},
		{"BLOCK of another protocol", own("FROM any TO all vms ALLOW udp PORT 22", "FROM ip 192.0.2.1 TO all vms BLOCK tcp PORT 22 PRIORITY 1"),
			"01 in 00:01,00:02 peers[] allow udp 0\n"},
		{"BLOCK that logs, and one that keeps it from logging", own("log: FROM any TO all vms BLOCK tcp PORT 22", "FROM ip 192.0.2.1 TO all vms BLOCK tcp PORT 22 PRIORITY 1"),
			"01 in 00:01,00:02 peers[] block tcp 0\n02 in 00:01,00:02 peers[ip(192.0.2.1)] block tcp 1\n"},
		{"BLOCK that logs, and one that decides before it", own("FROM ip 192.0.2.1 TO all vms BLOCK tcp PORT 22", "log: FROM any TO all vms BLOCK tcp PORT 22"),
			"01 in 00:01,00:02 peers[ip(192.0.2.1)] block tcp 0\n02 in 00:01,00:02 peers[] block tcp 0\n"},
		{"ALLOW over BLOCK outwards", own("FROM all vms TO any BLOCK tcp PORT 25", "FROM tag big TO ip 192.0.2.1 ALLOW tcp PORT 25 PRIORITY 9"),
			"01 out 00:01,00:02 peers[] block tcp 0\n02 out 00:02 peers[ip(192.0.2.1)] allow tcp 9\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			instances, ports := stage()
			r, err := NewResolver(tt.rules, instances)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, show(r.Spec(ports))); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if diff := cmp.Diff(r.Spec(ports), r.Spec(ports)); diff != "" {
				t.Errorf("the second time:\n%s", diff)
			}
		})
	}
}

func TestResolverRefuses(t *testing.T) {
	for _, r := range []api.FirewallRule{
		{UUID: uuid(1), Enabled: true, Owner: alice, Rule: "FROM any TO any ALLOW ah"},
		{UUID: uuid(1), Enabled: true, Rule: "FROM any TO all vms ALLOW ah"},
		{UUID: uuid(1), Enabled: true, Owner: alice, Global: true, Rule: "FROM any TO all vms ALLOW ah"},
	} {
		if _, err := NewResolver([]api.FirewallRule{r}, nil); err == nil || !strings.Contains(err.Error(), r.UUID) {
			t.Errorf("%+v: %v, want an error that names the rule", r, err)
		}
	}
}

// TestBigTag: a tag of many instances is listed once, however many rules name it.
func TestBigTag(t *testing.T) {
	var rules []api.FirewallRule
	for i := range 100 {
		rules = append(rules, api.FirewallRule{UUID: uuid(i), Enabled: true, Owner: alice, Rule: fmt.Sprintf("FROM tag many TO tag many ALLOW tcp PORT %d", i+1)})
	}
	var instances []Instance
	for i := range 10_000 {
		instances = append(instances, Instance{UUID: uuid(i), Owner: alice, Tags: map[string]string{"many": fmt.Sprint(i)},
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}})
	}
	r, err := NewResolver(rules, instances)
	if err != nil {
		t.Fatal(err)
	}
	spec := r.Spec([]api.PortSpec{{MAC: "02:00:00:00:00:01", Instance: uuid(77), Firewall: true}})
	if len(spec.Rules) != 100 || len(spec.Sets) != 1 || len(spec.Sets[0].Members) != 10_000 {
		t.Errorf("%d rules, %d sets; want 100 and one of 10,000 members", len(spec.Rules), len(spec.Sets))
	}
}

// benchWorld is rules and instances of 100 owners; a server has 100 ports.
func benchWorld(n int) ([]api.FirewallRule, []Instance, []api.PortSpec) {
	owner := func(i int) string { return fmt.Sprintf("%08d-0000-4000-8000-000000000000", i%100) }
	var rules []api.FirewallRule
	var instances []Instance
	var ports []api.PortSpec
	for i := range n {
		rules = append(rules, api.FirewallRule{UUID: uuid(i), Enabled: true, Owner: owner(i),
			Rule: fmt.Sprintf("FROM (tag role = t%d OR subnet 10.%d.0.0/16) TO tag role = t%d ALLOW tcp PORTS %d, 443", i/100%10, i%200, i/1000%10, i%60000+1)})
		instances = append(instances, Instance{UUID: uuid(i), Owner: owner(i), Tags: map[string]string{"role": fmt.Sprintf("t%d", i/100%10), "name": fmt.Sprint(i), "env": "prod"},
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)})}})
		if i%(n/100) == 0 {
			ports = append(ports, api.PortSpec{MAC: fmt.Sprintf("02:00:00:00:%02x:%02x", i>>8, i&0xff), Instance: uuid(i), Firewall: true})
		}
	}
	return rules, instances, ports
}

func BenchmarkNewResolver(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("%d_rules_%d_instances", n, n), func(b *testing.B) {
			rules, instances, _ := benchWorld(n)
			for b.Loop() {
				if _, err := NewResolver(rules, instances); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSpec(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("%d_rules_100_ports", n), func(b *testing.B) {
			rules, instances, ports := benchWorld(n)
			r, err := NewResolver(rules, instances)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(len(r.Spec(ports).Rules)), "entries")
			for b.Loop() {
				r.Spec(ports)
			}
		})
	}
}
