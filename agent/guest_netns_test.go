//go:build netns

package agent

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nereid/agent/firewall"
	"nereid/agent/machine/qmp"
	"nereid/agent/machine/vm"
	"nereid/api"
	"nereid/fixtures/guest"
)

// ipxeKernel is of Debian's package ipxe.
const ipxeKernel = "/usr/lib/ipxe/ipxe.lkrn"

// TestNetNSGuestAnswers: a virtual machine, iPXE in a real QEMU, answers to pings of its
// neighbour by a NIC that it got while it ran: a tap which the agent's own workers made,
// protected and put in its bridge. One that takes another's address is not heard, and its
// packets are counted; one whose NIC is taken away is silent at once, and its tap goes when
// its QEMU lets go.
func TestNetNSGuestAnswers(t *testing.T) {
	if !ownNetwork(t, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m") {
		return
	}
	filter := &firewall.Firewall{Stateless: true}
	n, board := workNetwork(t, filter)
	mine := api.PortSpec{MAC: "02:aa:00:00:00:02", Instance: "i2", Owner: "a", Brand: api.BrandKVM, VNI: 100, MTU: 1400, Addresses: []api.PortAddress{{Address: "10.0.0.2/24"}}}
	other := api.PortSpec{MAC: "02:aa:00:00:00:03", Instance: "i3", Owner: "a", VNI: 100, MTU: 1400, Addresses: []api.PortAddress{{Address: "10.0.0.3/24"}}}
	apply := func(revision string, ports []api.PortSpec, gone ...api.GoneNIC) {
		t.Helper()
		n.put(api.Spec{Revision: revision, Network: &api.NetworkSpec{
			Tags:     []api.TagSpec{{Name: "underlay", MTU: 1500, MAC: benchMAC}},
			Underlay: &api.UnderlaySpec{Tag: "underlay", MTU: 1500, Address: "192.0.2.1/24", Subnets: []string{"192.0.2.0/24"}},
			VNIs:     []api.VNISpec{{VNI: 100, Owner: "a", MTU: 1400}}, PortsAt: revision, Ports: ports, Gone: gone,
		}})
		for {
			r, version := board.peek()
			if r.AppliedNetwork == revision {
				return
			}
			select {
			case <-board.newer(version):
			case <-time.After(time.Minute):
				t.Fatalf("revision %s: %q", revision, r.Problems)
			}
		}
	}
	apply("1", []api.PortSpec{mine, other})
	ping := func(address string) error {
		out, err := exec.CommandContext(t.Context(), "ip", "netns", "exec", "nic-02aa00000003", "ping", "-n", "-c", "1", "-W", "1", address).CombinedOutput()
		if err != nil {
			return errors.New(string(out))
		}
		return nil
	}
	const tap = "np02aa00000002"
	nic := vm.NIC{MAC: mine.MAC, Tap: tap, MTU: mine.MTU, Slot: 15}

	q, stop := bootIPXE(t, nic, guest.Script(netip.MustParsePrefix("10.0.0.2/24"), netip.Addr{}))
	begun := time.Now()
	for err := ping("10.0.0.2"); err != nil; err = ping("10.0.0.2") {
		if time.Since(begun) > time.Minute {
			t.Fatalf("it does not answer: %v", err)
		}
	}
	t.Logf("its first answer came after %.1f s", time.Since(begun).Seconds())
	if err := q.Remove(t.Context(), nic); err != nil {
		t.Fatal(err)
	}
	if ping("10.0.0.2") == nil {
		t.Error("it answers by a NIC that was taken away")
	}
	if err := q.Add(t.Context(), vm.NIC{MAC: "02:aa:00:00:00:09", Tap: "np02aa00000009", Slot: 14}); err == nil {
		t.Error("it has a NIC whose tap nobody made")
	}
	stop()

	// Another's address.
	dropped := func() map[string]uint64 {
		t.Helper()
		c, err := filter.Counters(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	before := dropped()
	_, stop = bootIPXE(t, nic, guest.Script(netip.MustParsePrefix("10.0.0.9/24"), netip.Addr{}, ":again", "chain tftp://10.0.0.3/x ||", "goto again"))
	begun = time.Now()
	for maps.Equal(dropped(), before) {
		if ping("10.0.0.9") == nil {
			t.Fatal("it answers by an address that is not its own")
		}
		if time.Since(begun) > time.Minute {
			t.Fatalf("nothing of it was dropped: %v", before)
		}
	}
	t.Logf("dropped before: %v, then %v", before, dropped())
	if ping("10.0.0.9") == nil {
		t.Error("it answers by an address that is not its own")
	}

	// Its NIC goes while it has it open.
	apply("2", []api.PortSpec{other}, api.GoneNIC{ID: "g", MAC: mine.MAC, Instance: mine.Instance})
	links := func() string {
		out, err := exec.CommandContext(t.Context(), "ip", "-o", "link").CombinedOutput()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if l := links(); strings.Contains(l, tap+":") || !strings.Contains(l, "ng02aa00000002") {
		t.Errorf("links are\n%s", l)
	}
	stop()
	if l := links(); strings.Contains(l, "ng02aa00000002") {
		t.Errorf("links are\n%s", l)
	}
}

// bootIPXE boots a machine that runs a script, which has its NIC before its firmware looks.
func bootIPXE(t *testing.T, nic vm.NIC, script string) (vm.QEMU, func()) {
	t.Helper()
	kernel, err := os.ReadFile(ipxeKernel)
	if err != nil {
		t.Fatalf("%v: install Debian's package ipxe", err)
	}
	disk, err := guest.Disk(kernel, []byte(script))
	dir := t.TempDir()
	path := filepath.Join(dir, "disk0")
	if err == nil {
		err = os.WriteFile(path, disk, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	args, err := vm.Machine{UUID: "6a1c1a2e-1d2b-4c3d-8e4f-5a6b7c8d9e0f", Dir: dir, Type: "pc-q35-7.2", CPU: "qemu64", VCPUs: 1, MemoryMiB: 64,
		Disks: []vm.Disk{{Name: "disk0", Path: path}}}.Arguments()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(vm.Program, append(args, "-S")...)
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	t.Cleanup(stop)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := qmp.Dial(ctx, filepath.Join(dir, vm.Monitor))
	for err != nil && ctx.Err() == nil {
		c, err = qmp.Dial(ctx, filepath.Join(dir, vm.Monitor))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	q := vm.QEMU{Monitor: c}
	if err := q.Add(ctx, nic); err != nil {
		t.Fatal(err)
	}
	if err := c.Call(ctx, "cont", nil, nil); err != nil {
		t.Fatal(err)
	}
	return q, stop
}
