//go:build netns || vm

package network

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"nereid/api"
)

// lab is some servers on one switch, each a network namespace:
//
//	server 1: eth0 --- switch --- eth0: server 2
//
// More NICs of a server are on the switch too.
type lab struct {
	t    *testing.T
	name string
}

// node is one server of a lab.
type node struct {
	*Network
	lab    *lab
	ns     string
	kernel *Kernel
	log    *bytes.Buffer
}

func newLab(t testing.TB) *lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("the netns tier needs root")
	}
	l := &lab{name: "nereidnet" + strconv.Itoa(os.Getpid())}
	if tt, ok := t.(*testing.T); ok {
		l.t = tt
	}
	l.addNamespace(t, l.name+"-sw")
	run(t, "ip", "-n", l.name+"-sw", "link", "add", "sw", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
	run(t, "ip", "-n", l.name+"-sw", "link", "set", "sw", "mtu", "9000", "up")
	return l
}

func (l *lab) addNamespace(t testing.TB, ns string) {
	t.Helper()
	run(t, "ip", "netns", "add", ns)
	t.Cleanup(func() { run(t, "ip", "netns", "del", ns) })
	run(t, "ip", "-n", ns, "link", "set", "lo", "up")
}

// setTwice sets a port, and sets it again.
func (n *node) setTwice(t testing.TB, p api.PortSpec) {
	t.Helper()
	for range 2 {
		if err := n.SetPort(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
}

// server adds a server with NICs eth0, eth1... Their MACs end in the server's
// number and theirs.
func (l *lab) server(t testing.TB, number, nics int) *node {
	t.Helper()
	n := &node{lab: l, ns: fmt.Sprintf("%s-%d", l.name, number), log: &bytes.Buffer{}}
	l.addNamespace(t, n.ns)
	for i := range nics {
		sw := fmt.Sprintf("s%dn%d", number, i)
		run(t, "ip", "link", "add", sw, "netns", l.name+"-sw", "type", "veth", "peer", "name", fmt.Sprintf("eth%d", i), "netns", n.ns, "address", n.mac(number, i))
		run(t, "ip", "-n", l.name+"-sw", "link", "set", sw, "mtu", "9000", "master", "sw", "up")
	}
	n.open(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("server %d:\n%s", number, n.log)
		}
		ctx := context.WithoutCancel(t.Context())
		left, err := n.kernel.Read(ctx)
		if err == nil {
			err = (&Network{System: n.kernel}).Apply(ctx, api.NetworkSpec{Gone: left.gone(api.NetworkSpec{})})
		}
		if err != nil {
			t.Errorf("Apply nothing: %v", err)
		}
		n.kernel.Close()
	})
	return n
}

// open is what a start of the agent does.
func (n *node) open(t testing.TB) {
	t.Helper()
	if n.kernel != nil {
		n.kernel.Close()
	}
	k, err := Open(filepath.Join(namespaces, n.ns))
	if err != nil {
		t.Fatal(err)
	}
	n.kernel = k
	n.Network = &Network{System: k, Log: slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
}

func (n *node) mac(server, nic int) string { return fmt.Sprintf("02:bb:00:00:%02x:%02x", server, nic) }

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (n *node) ip(t testing.TB, args ...string) string {
	t.Helper()
	return run(t, "ip", append([]string{"-n", n.ns}, args...)...)
}

func (n *node) bridge(t testing.TB, args ...string) string {
	t.Helper()
	return run(t, "bridge", append([]string{"-n", n.ns}, args...)...)
}

// mustApply applies a spec twice; the second time changes nothing. What is there
// at the end is what the plan said.
func (n *node) mustApply(t *testing.T, spec api.NetworkSpec) {
	t.Helper()
	spec.Gone = n.read(t).gone(spec) // ports that it does not have
	before := n.read(t)
	if err := n.Apply(t.Context(), spec); err != nil {
		t.Fatalf("Apply: %v", err)
	}
	after := n.read(t)
	if p := makePlan(spec, before); p.fault == nil {
		if d := cmp.Diff(p.now.String(), after.String()); d != "" && len(makePlan(spec, after).steps) > 0 {
			t.Errorf("the kernel differs from the plan:\n%s", d)
		}
	}
	if err := n.Apply(t.Context(), spec); err != nil {
		t.Fatalf("Apply again: %v", err)
	}
	if p := makePlan(spec, after); len(p.steps) > 0 {
		t.Errorf("a second Apply has work:\n%v", p.steps)
	}
	if d := cmp.Diff(after.String(), n.read(t).String()); d != "" {
		t.Errorf("the second Apply changed:\n%s", d)
	}
}

func (n *node) read(t *testing.T) *State {
	t.Helper()
	s, err := n.kernel.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// inside runs a command in an instance.
func inside(t *testing.T, mac, name string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ip", append([]string{"netns", "exec", PortNamespace(mac), name}, args...)...).CombinedOutput()
	return string(out), err
}

// reaches pings from an instance, at most three times. The first answer counts.
func reaches(t *testing.T, mac, ip string) bool {
	t.Helper()
	for range 3 {
		out, err := inside(t, mac, "ping", "-n", "-c", "1", "-W", "0.3", ip)
		var exit *exec.ExitError
		if err == nil {
			return true
		}
		if !errors.As(err, &exit) {
			t.Fatalf("ping: %v\n%s", err, out)
		}
	}
	return false
}

// sniff counts frames that come to an instance, by EtherType, until the function
// it returns is called.
func sniff(t *testing.T, mac string) func() map[uint16]int {
	t.Helper()
	ns, err := netns.GetFromName(PortNamespace(mac))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var fd int
	err = within(ns, func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0x0300) // ETH_P_ALL
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return func() map[uint16]int {
		defer unix.Close(fd)
		frames := map[uint16]int{}
		b := make([]byte, 2048)
		for {
			n, from, err := unix.Recvfrom(fd, b, 0)
			if err != nil || n < 14 {
				return frames
			}
			if from.(*unix.SockaddrLinklayer).Pkttype != unix.PACKET_OUTGOING {
				frames[binary.BigEndian.Uint16(b[12:])]++
			}
		}
	}
}

func labPort(n, server int, vni uint32, addrs ...string) api.PortSpec {
	p := api.PortSpec{MAC: fmt.Sprintf("02:aa:00:00:%02x:%02x", server, n), Instance: fmt.Sprintf("i%d-%d", server, n), Owner: "acc", VNI: vni, MTU: 1400}
	for _, a := range addrs {
		p.Addresses = append(p.Addresses, api.PortAddress{Address: a})
	}
	return p
}

// labSpec is a server's, whose underlay address ends in its number.
func (n *node) labSpec(server int, underlay string, vnis []uint32, ports ...api.PortSpec) api.NetworkSpec {
	s := api.NetworkSpec{
		Tags:     []api.TagSpec{{Name: "underlay", MTU: 1500, MAC: n.mac(server, 0)}},
		Underlay: &api.UnderlaySpec{Tag: "underlay", MTU: 1500, Address: underlay},
		Ports:    ports,
	}
	for _, v := range vnis {
		s.VNIs = append(s.VNIs, api.VNISpec{VNI: v, Owner: "acc", MTU: 1400})
	}
	return s
}

// mapOf is the map of a VNI's ports.
func mapOf(vni uint32, version uint64, at map[string][]api.PortSpec) api.FabricMap {
	m := api.FabricMap{VNI: vni, Epoch: "e", Version: version, Full: true}
	for underlay, ports := range at {
		for _, p := range ports {
			for _, a := range p.Addresses {
				if p.VNI == vni {
					m.Entries = append(m.Entries, api.MapEntry{IP: netip.MustParsePrefix(a.Address).Addr().String(), MAC: p.MAC, Underlay: underlay, Version: version})
				}
			}
		}
	}
	return m
}

// eventually waits for something that an event brings about; the sleeps are the
// test's, which has no event of its own to wait for.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	start := time.Now()
	for !is() {
		if time.Since(start) > 5*time.Second {
			t.Fatalf("after 5 s still not: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Logf("%s: after %s", what, time.Since(start).Round(time.Millisecond))
}

func command(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	return string(out), err
}

// adminNIC gives a server an admin address on eth0, as its boot does.
func (n *node) adminNIC(t *testing.T, server int) {
	t.Helper()
	n.ip(t, "link", "set", "eth0", "up")
	n.ip(t, "addr", "add", fmt.Sprintf("10.99.99.%d/24", server), "dev", "eth0")
	n.ip(t, "addr", "add", fmt.Sprintf("fd99::%d/64", server), "dev", "eth0", "nodad")
	n.ip(t, "route", "add", "default", "via", "10.99.99.254")
	n.ip(t, "route", "add", "198.18.0.0/15", "via", "10.99.99.253", "metric", "77")
	n.ip(t, "-6", "route", "add", "default", "via", "fd99::fe", "metric", "50")
	n.Admin, n.Dir = netip.MustParseAddr(fmt.Sprintf("10.99.99.%d", server)), t.TempDir()
}

// sees reports whether one server's host reaches an address.
func (n *node) sees(t *testing.T, ip string) bool {
	t.Helper()
	err := errors.New("")
	for range 3 {
		if err != nil {
			_, err = inNamespace(t, n.ns, "ping", "-n", "-c", "1", "-W", "1", ip)
		}
	}
	return err == nil
}

func inNamespace(t *testing.T, ns, name string, args ...string) (string, error) {
	t.Helper()
	return command(t.Context(), append([]string{"ip", "netns", "exec", ns, name}, args...)...)
}

// killer is a System whose process is killed after some steps.
type killer struct {
	System
	left int
}

func (k *killer) Do(ctx context.Context, s Step) error {
	if k.left == 0 {
		return errKilled
	}
	k.left--
	return k.System.Do(ctx, s)
}

func (k *killer) Read(ctx context.Context, names ...string) (*State, error) {
	if k.left == 0 {
		return nil, errKilled
	}
	return k.System.Read(ctx, names...)
}
