//go:build netns

package fabric

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/integration/lab"
)

// TestNetNSRackOfFour: two accounts with the same subnets on three VLANs each, on
// four servers with whole agents and a head node. Every instance calls every
// address, in IPv4 and IPv6, before and after a move, a gateway server's failure
// and a head node's absence.
func TestNetNSRackOfFour(t *testing.T) {
	s := newServers(t)
	var all []*instance
	for owner, letter := range map[string]string{alice: "a", bob: "b"} {
		// Without connection tracking, replies are judged like what begins a connection.
		s.nereid("firewall", "create", "FROM any TO all vms ALLOW tcp PORT all", "--owner", owner)
		for v := 2; v <= 4; v++ {
			vlan := fmt.Sprint(v)
			s.nereid("fabric", "vlan", "create", owner, vlan, "--name", "v"+vlan)
			four := s.network(owner, vlan, "v"+vlan, "10.0."+vlan+".0/24", "10.0."+vlan+".1", "--internet-nat")
			six := s.network(owner, vlan, "v"+vlan+"x6", "fd00:"+vlan+"::/64", "fd00:"+vlan+"::1")
			// The first address is one that both accounts use; the others are not.
			for k, host := range []int{5, map[string]int{"a": 6, "b": 66}[letter]} {
				i := &instance{name: fmt.Sprintf("%s%d-%d", letter, v, host), owner: owner, on: s.all[(2*v+k)%4],
					ips: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", v, host)), netip.MustParseAddr(fmt.Sprintf("fd00:%d::%d", v, host))}}
				i.nic = s.createNIC(owner, i.on.Spec.Name, four+"="+i.ips[0].String(), six+"="+i.ips[1].String())
				all = append(all, i)
			}
		}
	}
	for _, i := range all {
		s.launch(i)
	}
	s.settled()
	s.listen("/run/netns/"+s.Namespace, "world")

	by := func(name string) *instance {
		return all[slices.IndexFunc(all, func(i *instance) bool { return i.name == name })]
	}
	outside := func(i *instance, limit time.Duration) (string, error) {
		name, caller, err := call(i.path(), netip.MustParseAddr(world2), limit)
		if err == nil && name != "world" {
			err = fmt.Errorf("%s: %q answers", i.name, name)
		}
		return caller, err
	}
	t.Run("every pair", func(t *testing.T) { s.pairs(all) })
	t.Run("NAT", func(t *testing.T) {
		for _, i := range all {
			caller, err := outside(i, 5*time.Second)
			if err != nil {
				t.Errorf("%s on %s does not reach what is outside: %v", i.name, i.on.Spec.Name, err)
			} else if !strings.HasPrefix(caller, "198.51.100.1") {
				t.Errorf("%s is seen outside as %s", i.name, caller)
			}
		}
	})
	t.Run("the servers and the head node are not reached", func(t *testing.T) {
		for _, m := range s.all {
			s.listen(m.Namespace(""), m.Spec.Name)
		}
		for _, to := range []string{"10.99.99.7", "10.99.99.100", "10.77.0.11", "10.77.0.12"} {
			if name, _, err := call("/run/netns/"+s.Namespace, netip.MustParseAddr(to), time.Second); strings.HasPrefix(to, "10.99.") && (err != nil || name == "") {
				t.Errorf("nobody listens on %s: %v", to, err)
			}
			if name, _, err := call(by("a2-5").path(), netip.MustParseAddr(to), time.Second); err != nil || name != "" {
				t.Errorf("%s: %q answers, %v", to, name, err)
			}
		}
	})
	t.Run("ports are forwarded", func(t *testing.T) {
		for _, to := range []*instance{by("a2-5"), by("a3-5")} { // on a server that does NAT, and on one that does not
			var f api.FabricForward
			s.read(&f, "fabric", "forward", "create", alice, "tcp", to.ips[0].String()+":"+port)
			s.settled()
			if len(f.Addresses) != 2 {
				t.Fatalf("%+v: want two gateway servers", f)
			}
			for _, a := range f.Addresses {
				at := net.JoinHostPort(a, fmt.Sprint(f.Port))
				name, caller, err := dial("/run/netns/"+s.Namespace, at, 5*time.Second)
				if err != nil || name != to.name {
					t.Errorf("%s from outside: %q answers (%v), want %s", at, name, err, to.name)
				}
				if caller != world && !strings.HasPrefix(caller, "100.") {
					t.Errorf("%s sees %s", to.name, caller)
				}
			}
			s.nereid("fabric", "forward", "delete", alice, f.UUID, "--yes")
			s.settled()
			if name, _, err := dial("/run/netns/"+s.Namespace, net.JoinHostPort(f.Addresses[0], fmt.Sprint(f.Port)), time.Second); err != nil || name != "" {
				t.Errorf("after its end: %q answers, %v", name, err)
			}
		}
	})
	t.Run("a NIC that is made again is protected again", func(t *testing.T) {
		from, to := by("b2-5"), by("b2-66")
		run := func(name string, args ...string) string {
			t.Helper()
			out, err := from.on.Exec(t.Context(), name, args...).CombinedOutput()
			if err != nil {
				t.Fatalf("%s %q: %v: %s", name, args, err, out)
			}
			return string(out)
		}
		dropped := func() string { return run("nft", "list", "counter", "netdev", "nereid_firewall", "ipv4") }
		for range 2 {
			before := dropped()
			run("nsenter", "--net=/run/netns/"+namespace(from.nic), "ip", "addr", "add", "10.0.2.99/32", "dev", "eth0")
			_ = from.on.Exec(t.Context(), "nsenter", "--net=/run/netns/"+namespace(from.nic), "ping", "-n", "-c", "1", "-W", "1", "-I", "10.0.2.99", to.ips[0].String()).Run()
			if after := dropped(); after == before {
				t.Errorf("what came from another's address was not dropped: %s", after)
			}
			run("ip", "link", "del", "np"+strings.ReplaceAll(from.nic.MAC, ":", ""))
			s.until("the NIC is back", func() error {
				name, _, err := call(from.path(), to.ips[0], time.Second)
				if err == nil && name != to.name {
					err = fmt.Errorf("%q answers", name)
				}
				return err
			})
		}
	})
	t.Run("the MTU is measured, and a black hole found", func(t *testing.T) {
		from, to := by("a2-5"), by("a3-6")
		trace := []string{"network", "trace", from.nic.MAC, to.nic.MAC, "--proto", "tcp", "--port", port}
		if out := s.nereid(trace...); !strings.Contains(out, "MTU 8950 bytes, measured") || !strings.Contains(out, "9000 bytes get there and back") {
			t.Errorf("the trace says\n%s", out)
		}
		// To what is outside, as far as the gateway server.
		if out := s.nereid("network", "trace", by("a3-5").nic.MAC, world2, "--proto", "tcp", "--port", port); !strings.Contains(out, " (in use)") || !strings.Contains(out, "9000 bytes get there and back") {
			t.Errorf("the trace says\n%s", out)
		}
		if err := to.on.Squeeze(t.Context(), 1, 4321); err != nil {
			t.Fatal(err)
		}
		out := s.refused(4, trace...)
		if !strings.Contains(out, "MTU black hole") || !strings.Contains(out, "of which 4271 get through") {
			t.Errorf("with a switch that drops more than 4321 bytes, the trace says\n%s", out)
		}
		t.Log("\n" + out)
		if err := to.on.Squeeze(t.Context(), 1, 9000); err != nil {
			t.Fatal(err)
		}
		s.nereid(trace...)
		// A switch port in the wrong VLAN.
		for _, bridge := range []string{"admin0", "data0"} {
			if err := to.on.Replug(t.Context(), 1, bridge); err != nil {
				t.Fatal(err)
			}
			if bridge == "admin0" {
				if out := s.refused(4, trace...); !strings.Contains(out, "do not reach each other on the underlay") {
					t.Errorf("with a switch port in the wrong VLAN, the trace says\n%s", out)
				}
			}
		}
		s.nereid(trace...)
	})
	t.Run("after a move", func(t *testing.T) {
		i := by("a3-6")
		i.on = s.all[(slices.Index(s.all, i.on)+1)%len(s.all)]
		s.nereid("nic", "move", i.nic.MAC, i.on.Spec.Name)
		s.launch(i)
		s.settled()
		s.pairs(all)
	})
	t.Run("head node away", func(t *testing.T) {
		s.KillHeadnode()
		for _, m := range s.all {
			if err := m.KillAgent(); err != nil {
				t.Fatal(err)
			}
		}
		s.pairs(all)
		done := map[*lab.Server]int{}
		for _, m := range s.all {
			done[m] = s.steps(m)
			if err := m.StartAgent(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		s.pairs(all)
		s.Start()
		s.settled()
		s.pairs(all)
		// What was in order was left alone.
		for _, m := range s.all {
			if n := s.steps(m) - done[m]; n > 0 {
				t.Errorf("the agent of %s was started anew and changed %d things", m.Spec.Name, n)
			}
		}
	})
	t.Run("a gateway server loses its uplink", func(t *testing.T) {
		i := by("b3-66")
		first, err := outside(i, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		cut := s.gateway(first)
		if err := cut.Cable(t.Context(), 2, false); err != nil {
			t.Fatal(err)
		}
		since := time.Now()
		s.until("another gateway serves", func() error { _, err := outside(i, 200*time.Millisecond); return err })
		// On a quiet machine it is 1.
		t.Logf("%s lost its uplink; the first new connection came through after %.2f s", cut.Spec.Name, time.Since(since).Seconds())
		s.settled()
		for _, i := range all { // its own instances, too
			if seen, err := outside(i, 5*time.Second); err != nil || seen == first {
				t.Errorf("%s on %s: seen as %q, %v", i.name, i.on.Spec.Name, seen, err)
			}
		}
		if out := s.nereid("server", "get", cut.Spec.Name); !strings.Contains(out, "NIC tag external has no link") {
			t.Errorf("server get %s:\n%s", cut.Spec.Name, out)
		}
		if err := cut.Cable(t.Context(), 2, true); err != nil {
			t.Fatal(err)
		}
		s.WaitUUID(cut.Spec.UUID, "has its uplink again", func(v api.Server) bool { return v.Report != nil && len(v.Report.NICTagsDown) == 0 })
		s.settled()
		for _, i := range all {
			if i.on == cut {
				s.until("its own uplink serves "+i.name, func() error {
					seen, err := outside(i, time.Second)
					if err == nil && seen != first {
						err = fmt.Errorf("seen as %s", seen)
					}
					return err
				})
			}
		}
	})
	t.Run("a gateway server fails", func(t *testing.T) {
		i := by("b3-66")
		if i.on == s.all[0] || i.on == s.all[1] {
			t.Fatalf("%s is on %s, which does NAT itself", i.name, i.on.Spec.Name)
		}
		first, err := outside(i, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		failed := s.gateway(first)
		failed.PowerOff()
		since := time.Now()
		s.until("another gateway serves", func() error { _, err := outside(i, 200*time.Millisecond); return err })
		// On a quiet machine it is 2.
		t.Logf("%s failed; the first new connection came through after %.2f s", failed.Spec.Name, time.Since(since).Seconds())
		second, err := outside(i, 5*time.Second)
		if err != nil || second == first {
			t.Errorf("after %s failed: %q, %v; before it was %s", failed.Spec.Name, second, err, first)
		}
		left := slices.DeleteFunc(slices.Clone(all), func(i *instance) bool { return i.on == failed })
		s.pairs(left)
		s.powerOn(failed)
		// It has no pool, so its key was in RAM only: the next boot has another one, which
		// an operator accepts once the old one has been silent for long enough.
		s.until("the key of "+failed.Spec.Name+"'s new boot is accepted", func() error {
			return s.Client().AcceptKey(t.Context(), failed.Spec.UUID, "")
		})
		s.WaitUUID(failed.Spec.UUID, "approved again", func(v api.Server) bool { return v.State == api.StateApproved })
		for _, i := range all {
			if i.on == failed {
				s.launch(i)
			}
		}
		s.settled()
		s.pairs(all)
		if _, err := outside(i, 5*time.Second); err != nil {
			t.Errorf("after %s came back: %v", failed.Spec.Name, err)
		}
	})
}
