//go:build vm

package instance

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"nereid/api"
)

// liveNICs: zones that run get a NIC each, with addresses and routes, and reach each other
// by it; the primary's gateway is the default route, also when another becomes primary. A
// zone that reboots from inside, and one whose root destroyed its NICs, come up with the
// NICs of now in their bridges behind their anti-spoofing, while the agent was killed and is
// kept down. One that is taken away goes from the zone that runs. a and b are on different
// servers and have a NIC each.
func (o operator) liveNICs(t *testing.T, a, b zone, reach func(*testing.T)) {
	o.nereid("fabric", "network", "create", alice, "2", "db", "--subnet", "192.168.8.0/24", "--gateway", "192.168.8.1")
	o.Undo("fabric", "network", "delete", alice, "2", "db", "--yes")
	before := leader(o, a)
	for i, z := range []zone{a, b} {
		asked := time.Now()
		o.nereid("instance", "nic", "add", z.Name, fmt.Sprintf("db=192.168.8.1%d", i))
		o.inside(z, fmt.Sprintf("timeout 60 sh -c 'until ip addr show net1 | grep -q 192.168.8.1%d; do sleep 0.1; done' 2>/dev/null", i))
		t.Logf("%s has its NIC after %.1f s", z.Name, time.Since(asked).Seconds())
	}
	o.inside(a, "timeout 60 sh -c 'until ping -c 1 -W 1 192.168.8.11; do :; done'")
	if after := leader(o, a); after != before {
		t.Errorf("the first process of %s was %s and is %s: a NIC is to come without a restart", a.Name, before, after)
	}
	a.Instance, b.Instance = o.instance(a.Name), o.instance(b.Name)
	if len(a.NICs) != 2 || len(b.NICs) != 2 {
		t.Fatalf("the instances have the NICs %+v and %+v", a.NICs, b.NICs)
	}
	for i, by := range []string{"192.168.8.1 dev net1", "192.168.7.1 dev net0"} {
		o.nereid("nic", "update", a.NICs[1-i].MAC, "--primary", "--yes")
		o.inside(a, fmt.Sprintf("timeout 60 sh -c 'until [ \"$(ip route | grep -c ^default)\" = 1 ] && ip route | grep -q \"^default via %s\"; do sleep 0.1; done'", by))
	}
	reboot := func(z, other zone, first string) {
		t.Helper()
		o.Shell(z.on, "systemctl kill -s KILL nereid-agent; systemctl stop nereid-agent")
		was := leader(o, z)
		o.Shell(z.on, fmt.Sprintf("nsenter -t %s -a /bin/sh -c 'PATH=/bin:/sbin:/usr/bin:/usr/sbin; %s kill -TERM 1'", was, first)) // busybox init takes it for a reboot
		o.until(z.on, fmt.Sprintf(`l=$(machinectl show --value -p Leader %s) && [ "$l" != %s ] && systemctl is-active -q nereid-zone-%s`, z.UUID, was, z.UUID))
		for _, n := range other.NICs {
			ip, _, _ := strings.Cut(n.Addresses[0].Address, "/")
			o.until(z.on, fmt.Sprintf("nsenter -t $(machinectl show --value -p Leader %s) -n ping -n -c 1 -W 1 %s", z.UUID, ip))
		}
		guards := o.Shell(z.on, "nft list chains netdev | grep -c 'chain port_np' || true")
		ports := o.Shell(z.on, "ls /sys/class/net | grep -c ^np || true")
		if guards != ports || strings.TrimSpace(ports) != fmt.Sprint(len(z.NICs)) {
			t.Errorf("server %s has %s ports of zones, and anti-spoofing on %s: want %d", z.on.Spec.Name, strings.TrimSpace(ports), strings.TrimSpace(guards), len(z.NICs))
		}
		if now := strings.TrimSpace(o.Shell(z.on, "systemctl is-active nereid-agent || true")); now == "active" {
			t.Error("the agent was there meanwhile")
		}
		started := time.Now()
		o.Shell(z.on, "systemctl start nereid-agent")
		o.Wait(z.on, "running with its agent again", func(s api.Server) bool {
			return s.State == api.StateRunning && s.LastSeen != nil && s.LastSeen.After(started)
		})
	}
	reboot(a, b, "")
	reboot(b, a, "ip link del net0; ip link del net1;")
	reach(t)
	for _, z := range []*zone{&a, &b} {
		asked := time.Now()
		o.nereid("instance", "nic", "remove", z.Name, z.NICs[1].MAC, "--yes")
		o.inside(*z, "timeout 60 sh -c 'while ip link show net1; do sleep 0.1; done' >/dev/null 2>&1")
		t.Logf("%s has lost its NIC after %.1f s", z.Name, time.Since(asked).Seconds())
		z.Instance = o.instance(z.Name)
	}
	reboot(a, b, "")
	reach(t)
	if left := strings.TrimSpace(o.Shell(a.on, "ls -d /sys/class/net/n[pz]* /run/nereid/nics/*.json | wc -l")); left != "2" {
		t.Errorf("server %s has %s ends of NICs and files of them; its one zone has one NIC", a.on.Spec.Name, left)
	}
}
