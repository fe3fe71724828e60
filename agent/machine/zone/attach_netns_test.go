//go:build netns

package zone

import (
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"nereid/api"
)

// stand stands for a zone's first process: it has a network namespace, which its own user
// namespace owns.
func stand(t *testing.T) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "echo; cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: 524288, Size: 65536}}, GidMappings: []syscall.SysProcIDMap{{HostID: 524288, Size: 65536}}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	return cmd.Process.Pid
}

// makePair makes a NIC's pair, as the agent does.
func makePair(n NIC) error {
	mac, err := net.ParseMAC(n.MAC)
	if err != nil {
		return err
	}
	a := netlink.NewLinkAttrs()
	a.Name, a.MTU = Port(n.MAC), n.MTU
	v := netlink.NewVeth(a)
	v.PeerName, v.PeerHardwareAddr, v.PeerMTU = Peer(n.MAC), mac, uint32(n.MTU)
	return netlink.LinkAdd(v)
}

// within is the network namespace of a process, and a handle on what is in it, until the
// test ends.
func within(t *testing.T, pid int) (netns.NsHandle, *netlink.Handle) {
	t.Helper()
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return ns, h
}

// TestNetNSAttach: NICs that wait on the server come into a zone under their names, also
// those of a try that was cut; those that are there stay; of one that is nowhere, and of
// one whose name the zone's administrator took, it is said, and the others come.
func TestNetNSAttach(t *testing.T) {
	pid := stand(t)
	ns, h := within(t, pid)
	nics := []NIC{{"02:cc:00:00:00:01", "net0", 1400}, {"02:cc:00:00:00:02", "net1", 1400}}
	for _, n := range nics {
		if err := makePair(n); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { exec.Command("ip", "link", "del", Port(n.MAC)).Run() })
	}
	cut, err := netlink.LinkByName(Peer(nics[1].MAC))
	if err == nil {
		err = netlink.LinkSetNsFd(cut, int(ns)) // and then the agent was killed
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Attach(pid, nics); err != nil {
			t.Fatal(err)
		}
		for _, n := range nics {
			if l, err := h.LinkByName(n.Name); err != nil || l.Attrs().HardwareAddr.String() != n.MAC {
				t.Errorf("%s: %v, %v", n.Name, l, err)
			}
		}
	}
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "net2"}, PeerName: "peer2"}); err != nil {
		t.Fatal(err)
	}
	more := []NIC{{"02:cc:00:00:00:03", "net2", 1400}, {"02:cc:00:00:00:04", "net3", 1400}, {"02:cc:00:00:00:05", "net4", 1400}}
	for _, n := range []NIC{more[0], more[2]} {
		if err := makePair(n); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { exec.Command("ip", "link", "del", Port(n.MAC)).Run() })
	}
	err = Attach(pid, append(nics, more...))
	if err == nil || !strings.Contains(err.Error(), "as net2: name it") || !strings.Contains(err.Error(), "as net3: it is neither") {
		t.Errorf("of NICs that cannot come: %v", err)
	}
	if _, err := h.LinkByName("net4"); err != nil {
		t.Errorf("another did not come: %v", err)
	}
	if err := Attach(os.Getpid(), nil); err == nil || !strings.Contains(err.Error(), "in no zone") {
		t.Errorf("the server itself: %v", err)
	}
}

// TestNetNSSettle: what is wanted of a NIC is set; what was set and is not wanted goes;
// what the zone's administrator set stays.
func TestNetNSSettle(t *testing.T) {
	_, h := within(t, stand(t))
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "net0"}, PeerName: "peer0"}); err != nil {
		t.Fatal(err)
	}
	peer, err := h.LinkByName("peer0")
	if err == nil {
		err = h.LinkSetUp(peer)
	}
	if err != nil {
		t.Fatal(err)
	}
	l, err := h.LinkByName("net0")
	if err != nil {
		t.Fatal(err)
	}
	has := func(what string, want ...string) {
		t.Helper()
		var got []string
		addrs, err := h.AddrList(l, netlink.FAMILY_V4)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			got = append(got, a.IPNet.String())
		}
		routes, err := h.RouteList(l, netlink.FAMILY_V4)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			if r.Gw != nil {
				got = append(got, r.Dst.String()+" via "+r.Gw.String())
			}
		}
		text := strings.Join(got, ", ")
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%s: %s, want %s", what, text, w)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %s, want %q", what, text, want)
		}
	}
	first := Inside{NICs: []api.InstanceNIC{{Interface: "net0", Primary: true, MTU: 1400, Addresses: []api.PortAddress{
		{Address: "10.9.0.2/24", Gateway: "10.9.0.1", Routes: map[string]string{"10.10.0.0/16": "10.9.0.7"}}}}}}
	next := Inside{NICs: []api.InstanceNIC{{Interface: "net0", MTU: 1300, Addresses: []api.PortAddress{{Address: "10.9.0.3/24"}}}}}
	for range 2 {
		if err := settle(h, l, 1400, first.wishes("net0"), Inside{}.wishes("net0")); err != nil {
			t.Fatal(err)
		}
	}
	has("at first", "10.9.0.2/24", "0.0.0.0/0 via 10.9.0.1", "10.10.0.0/16 via 10.9.0.7")
	own := netip.MustParsePrefix("10.8.0.1/24")
	if err := h.AddrAdd(l, &netlink.Addr{IPNet: netOf(own)}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := settle(h, l, 1300, next.wishes("net0"), first.wishes("net0")); err != nil {
			t.Fatal(err)
		}
	}
	has("then", "10.9.0.3/24", "10.8.0.1/24")
}
