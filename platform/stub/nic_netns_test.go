//go:build netns

package stub

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"nereid/api"
)

// inNetns gives the test a network namespace of its own and a handle to it that
// other goroutines may use. The thread ends with the test.
func inNetns(t *testing.T) *netlink.Handle {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("the netns tier needs root and network namespaces: %v", err)
	}
	h, err := netlink.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

func veth(t *testing.T, h *netlink.Handle, name, mac string) {
	t.Helper()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: hw}, PeerName: name + "-sw"}); err != nil {
		t.Fatal(err)
	}
}

func up(t *testing.T, h *netlink.Handle, name string) {
	t.Helper()
	l, err := h.LinkByName(name)
	if err == nil {
		err = h.LinkSetUp(l)
	}
	if err != nil {
		t.Error(err)
	}
}

var testNetwork = api.BootNetwork{MAC: "52:54:00:aa:bb:02", Address: netip.MustParsePrefix("10.99.99.100/24"), Gateway: netip.MustParseAddr("10.99.99.1")}

// wantConfigured compares the kernel's state with testNetwork.
func wantConfigured(t *testing.T, h *netlink.Handle, name string) {
	t.Helper()
	l, err := h.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := h.AddrList(l, netlink.FAMILY_V4)
	if err != nil || len(addrs) != 1 || addrs[0].IPNet.String() != "10.99.99.100/24" {
		t.Errorf("addresses of %s: %v %v", name, addrs, err)
	}
	routes, err := h.RouteList(l, netlink.FAMILY_V4)
	if err != nil || len(routes) != 2 {
		t.Errorf("routes by %s: %v %v; want the subnet and the gateway", name, routes, err)
	}
	var gw []string
	for _, r := range routes {
		if r.Gw != nil {
			gw = append(gw, r.Gw.String())
		}
	}
	if strings.Join(gw, " ") != "10.99.99.1" {
		t.Errorf("gateways %q", gw)
	}
}

// Two NICs are there, the second is ours and has a link.
func TestNetNSConfigureByMAC(t *testing.T) {
	h := inNetns(t)
	veth(t, h, "eth0", "52:54:00:aa:bb:01")
	veth(t, h, "eth1", testNetwork.MAC)
	up(t, h, "eth1-sw")
	up(t, h, "eth0-sw")
	var out bytes.Buffer
	console := NewConsole(Screen{Writer: &out})
	walks := 0
	for range 2 {
		err := configure(t.Context(), testNetwork, console, patience{10 * time.Second, 10 * time.Second},
			func(_ context.Context, modalias string) error {
				if modalias == "" {
					walks++
				}
				return nil
			})
		if err != nil {
			t.Fatal(err)
		}
		wantConfigured(t, h, "eth1")
	}
	if l, err := h.LinkByName("eth0"); err != nil || l.Attrs().Flags&net.FlagUp != 0 {
		t.Errorf("eth0 was touched: %v %v", l, err)
	}
	if walks < 2 || !strings.Contains(out.String(), "eth1 (52:54:00:aa:bb:02) has a link and address 10.99.99.100/24.") {
		t.Errorf("%d walks; console %q", walks, out.String())
	}
}

// The NIC appears while it is waited for, and its link after that.
func TestNetNSConfigureLateNIC(t *testing.T) {
	h := inNetns(t)
	links := make(chan netlink.LinkUpdate, 16)
	done := make(chan struct{})
	if err := netlink.LinkSubscribe(links, done); err != nil {
		t.Fatal(err)
	}
	walked := make(chan struct{})
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		<-walked
		veth(t, h, "eth0", testNetwork.MAC)
		switched := false
		for u := range links { // the stub puts its end up: now the switch comes up
			if u.Attrs().Name == "eth0" && u.Attrs().Flags&net.FlagUp != 0 && !switched {
				switched = true
				up(t, h, "eth0-sw")
			}
		}
	}()
	once := false
	err := configure(t.Context(), testNetwork, NewConsole(), patience{10 * time.Second, 10 * time.Second},
		func(context.Context, string) error {
			if !once {
				once = true
				close(walked)
			}
			return nil
		})
	close(done)
	<-finished
	if err != nil {
		t.Fatal(err)
	}
	wantConfigured(t, h, "eth0")
}

func TestNetNSConfigureSays(t *testing.T) {
	h := inNetns(t)
	none := func(context.Context, string) error { return nil }
	short := patience{50 * time.Millisecond, 50 * time.Millisecond}
	err := configure(t.Context(), testNetwork, NewConsole(), short, none)
	if err == nil || !strings.Contains(err.Error(), "(52:54:00:aa:bb:02) did not appear: the kernel shows no NIC at all") {
		t.Errorf("no NIC: %v", err)
	}
	veth(t, h, "eth0", "52:54:00:aa:bb:01")
	err = configure(t.Context(), testNetwork, NewConsole(), short, none)
	if err == nil || !strings.Contains(err.Error(), "eth0 52:54:00:aa:bb:01") {
		t.Errorf("another NIC: %v", err)
	}
	veth(t, h, "eth1", testNetwork.MAC)
	err = configure(t.Context(), testNetwork, NewConsole(), short, none)
	if err == nil || !strings.Contains(err.Error(), "NIC eth1 (52:54:00:aa:bb:02) has no link") {
		t.Errorf("no link: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := configure(ctx, testNetwork, NewConsole(), patience{time.Minute, time.Minute}, none); err == nil {
		t.Error("the end of the context was not noticed")
	}
}
