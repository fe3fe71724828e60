//go:build netns

package network

import (
	"context"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nereid/api"
)

// TestNetNSMachineNIC: a virtual machine's NIC is a tap, protected before it is in its
// bridge. It stays when its QEMU ends, set again it changes nothing, and another agent
// takes it for what it is. What a machine sends comes out of its bridge.
func TestNetNSMachineNIC(t *testing.T) {
	n := newLab(t).server(t, 1, 1)
	p := labPort(1, 1, 100, "10.0.0.1/24")
	p.Brand = api.BrandKVM
	name := PortDevice(p.MAC)
	protected := false
	n.Protect = func(_ context.Context, names []string) error {
		l := n.read(t).Links[name]
		protected = protected || len(names) == 1 && names[0] == name && l != nil && l.Master == ""
		return nil
	}
	if err := n.Apply(t.Context(), n.labSpec(1, "192.0.2.1/24", []uint32{100})); err != nil {
		t.Fatal(err)
	}
	set := func() { n.setTwice(t, p) }
	set()
	l := n.read(t).Links[name]
	if l == nil || l.Kind != kindTap || l.Master != BridgeOfVNI(100) || l.MTU != p.MTU || !l.Up || !l.Closed || l.class() != classPort {
		t.Fatalf("the tap is %+v", l)
	}
	if !protected {
		t.Error("it was in its bridge before it was protected")
	}

	// As the machine's unit opens it, and as its QEMU ends.
	send := func() *os.File {
		t.Helper()
		var f *os.File
		err := within(n.kernel.ns, func() error {
			fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			f = os.NewFile(uintptr(fd), "tap")
			req, err := unix.NewIfreq(name)
			if err != nil {
				return err
			}
			req.SetUint16(tapFlags)
			return unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
		})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	f := send()
	bridge, err := n.kernel.links.LinkByName(BridgeOfVNI(100))
	if err != nil {
		t.Fatal(err)
	}
	mac, err := net.ParseMAC(p.MAC)
	if err != nil {
		t.Fatal(err)
	}
	before := bridge.Attrs().Statistics.RxPackets
	for deadline := time.Now().Add(10 * time.Second); ; { // a port takes a moment to forward
		frame := make([]byte, 10+60) // the header of virtio_net, and a broadcast
		copy(frame[10:], strings.Repeat("\xff", 6)+string(mac)+"\x88\xb5")
		if _, err := f.Write(frame); err != nil {
			t.Fatal(err)
		}
		if bridge, err = n.kernel.links.LinkByName(BridgeOfVNI(100)); err != nil {
			t.Fatal(err)
		}
		if bridge.Attrs().Statistics.RxPackets > before {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("what the machine sends does not come to its bridge")
		}
	}
	f.Close()
	set()
	if now := n.read(t).Links[name]; now == nil || now.Index != l.Index || now.Master != l.Master {
		t.Errorf("after its QEMU's end it is %+v", now)
	}
	f = send()

	if steps := planPort(p, BridgeOfVNI(100), n.read(t).Links[name]); len(steps.steps)+len(steps.problems) > 0 {
		t.Errorf("another agent would do %v, %v", steps.steps, steps.problems)
	}
	for range 2 {
		if err := n.DropPort(t.Context(), p.MAC, p.Instance); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.kernel.links.LinkByName(name); !notThere(err) {
		t.Errorf("after its removal: %v", err)
	}
	// Its QEMU, which has it open, is not told of any fault, and ends it by letting go.
	left := leftPrefix + strings.TrimPrefix(name, PortPrefix)
	if now := n.read(t).Links[left]; now == nil || now.Index != l.Index || now.Master != "" || now.Up || now.class() != classLeft || now.device() {
		t.Errorf("what its QEMU has open is %+v", now)
	}
	var events int16
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		_, _ = unix.Poll(p, 0)
		events = p[0].Revents
	})
	if err != nil || events&unix.POLLERR != 0 {
		t.Errorf("QEMU is told of %#x, %v", events, err)
	}
	if err := n.Apply(t.Context(), n.labSpec(1, "192.0.2.1/24", []uint32{100})); err != nil {
		t.Errorf("with what is left: %v", err)
	}
	f.Close()
	if _, err := n.kernel.links.LinkByName(left); !notThere(err) {
		t.Errorf("after its QEMU let go: %v", err)
	}
}
