//go:build netns || vm

package firewall

import (
	"os/exec"
	"strings"
	"sync"
	"testing"

	"nereid/api"
)

// proveProtect: ports that are made after the rules, and made again, are guarded
// before a bridge has them, and those that come and go meanwhile hinder nobody. With
// an interface its chain goes, or, from Linux 6.16 on, what binds that to it.
func proveProtect(t *testing.T, f *Firewall) {
	up := newLab(t, "uplink")["uplink"].wire(t)
	w := guardWorld(api.SpoofFlags{})
	if err := f.Protect(t.Context(), []string{"nic1"}); err == nil || !strings.Contains(err.Error(), "no such port") {
		t.Errorf("Protect before Apply: %v", err)
	}
	applyTwice(t, f, w, Options{})
	for id := uint32(0); id < 6; id += 2 {
		n := newNode(t, "nic1")
		if err := f.Protect(t.Context(), []string{"nic1", "nic2"}); err != nil { // there is no nic2
			t.Fatal(err)
		}
		command(t, "ip link set nic1 master br0")
		from, before := n.wire(t), counters(t, f)[countMAC]
		from.send(ipPacket(macUp, mac2, own4, up4, protoTCP, tcp(1, 2)), id)
		from.send(ipPacket(macUp, mac1, own4, up4, protoTCP, tcp(1, 2)), id+1)
		if up.receive(id + 1)[id] || counters(t, f)[countMAC] != before+1 {
			t.Errorf("round %d: another's MAC passed", id)
		}
		if repaired, err := f.VerifyOrRepair(t.Context()); repaired || err != nil {
			t.Errorf("round %d: repaired %v, %v", id, repaired, err)
		}
		command(t, "ip link del nic1")
		if id == 2 { // somebody takes the rules away
			command(t, "nft delete table netdev nereid_firewall")
		}
	}
	// Whoever has no Firewall puts the guard there, of which all but its chain stays.
	n := newNode(t, "nic1")
	for range 2 {
		if err := Guard(t.Context(), []string{"nic1"}); err != nil {
			t.Fatal(err)
		}
	}
	command(t, "ip link set nic1 master br0")
	from, before := n.wire(t), counters(t, f)[countMAC]
	from.send(ipPacket(macUp, mac2, own4, up4, protoTCP, tcp(1, 2)), 100)
	from.send(ipPacket(macUp, mac1, own4, up4, protoTCP, tcp(1, 2)), 101)
	if up.receive(101)[100] || counters(t, f)[countMAC] != before+1 {
		t.Error("behind Guard another's MAC passed")
	}
	chain := command(t, "nft -a list chain netdev nereid_firewall guard_na")
	for _, want := range []bool{true, false} {
		if repaired, err := f.VerifyOrRepair(t.Context()); repaired != want || err != nil {
			t.Errorf("a port that has no more than the guard: repaired %v, %v", repaired, err)
		}
	}
	if now := command(t, "nft -a list chain netdev nereid_firewall guard_na"); now != chain {
		t.Errorf("for one port all tables were made anew: %s, and were %s", now, chain)
	}
	if rules := command(t, "nft list chain netdev nereid_firewall port_nic1"); !strings.Contains(rules, "accept") {
		t.Errorf("the port has %s", rules)
	}
	command(t, "ip link del nic1")
	if err := f.Protect(t.Context(), []string{"nic9"}); err == nil || !strings.Contains(err.Error(), "no such port") {
		t.Errorf("Protect of another's interface: %v", err)
	}
	var flicker sync.WaitGroup
	flicker.Go(func() {
		for range 30 {
			exec.Command("ip", "link", "add", "nic1", "type", "veth", "peer", "name", "far").Run()
			exec.Command("ip", "link", "del", "nic1").Run()
		}
	})
	for range 100 {
		if err := f.Protect(t.Context(), []string{"nic1"}); err != nil {
			t.Error(err)
		}
	}
	flicker.Wait()
	applyTwice(t, f, w, Options{})
	// A transaction that had to be tried again looks like somebody else's.
	if _, err := f.VerifyOrRepair(t.Context()); err != nil {
		t.Error(err)
	}
	// A port that is gone takes its rules along; others stay.
	w.ports = w.ports[1:]
	applyTwice(t, f, w, Options{})
	if err := f.Protect(t.Context(), []string{"nic1"}); err == nil {
		t.Error("Protect of a port that is gone")
	}
	if repaired, err := f.VerifyOrRepair(t.Context()); repaired || err != nil {
		t.Errorf("repaired %v, %v", repaired, err)
	}
}
