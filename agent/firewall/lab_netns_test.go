//go:build netns || vm

package firewall

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// TestMain runs the test binary in a network namespace of its own:
//
//	            br0
//	  ┌──────────┼──────────┬── uplink ── eth0: no port of ours
//	nic1       nic2       nic3
//	  │          │          │
//	eth0       eth0       eth0            each in a namespace of its own
func TestMain(m *testing.M) {
	const mark = "NEREID_FIREWALL_NETNS"
	if os.Getenv(mark) == "" {
		unshare, err := exec.LookPath("unshare")
		if err == nil {
			err = os.Setenv(mark, "1")
		}
		if err == nil {
			err = syscall.Exec(unshare, append([]string{"unshare", "--net", "--"}, os.Args...), os.Environ())
		}
		fmt.Fprintln(os.Stderr, "this tier needs root and util-linux's unshare:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func command(t testing.TB, line string) string {
	t.Helper()
	words := strings.Fields(line)
	out, err := exec.CommandContext(t.Context(), words[0], words[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v %s", line, err, out)
	}
	return string(out)
}

// node is what is at the other end of a port.
type node struct {
	name string // of the host end
	mac  [6]byte
	ns   netns.NsHandle
}

// in runs f on a thread of its own in the node's namespace.
func (n *node) in(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		if err := netns.Set(n.ns); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// run runs a program in the node's namespace.
func (n *node) run(t testing.TB, line string) string {
	t.Helper()
	var out []byte
	err := n.in(func() (err error) {
		words := strings.Fields(line)
		out, err = exec.CommandContext(t.Context(), words[0], words[1:]...).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("%s: %s: %v %s", n.name, line, err, out)
	}
	return string(out)
}

// newLab makes the bridge and nodes; without addresses they say nothing by themselves.
func newLab(t testing.TB, names ...string) map[string]*node {
	t.Helper()
	return newBridge(t, "br0", names...)
}

func newBridge(t testing.TB, bridge string, names ...string) map[string]*node {
	t.Helper()
	command(t, "ip link add "+bridge+" type bridge mcast_snooping 0 stp_state 0 forward_delay 0")
	t.Cleanup(func() { exec.Command("ip", "link", "del", bridge).Run() })
	quiet(t, bridge)
	command(t, "ip link set "+bridge+" up")
	nodes := make(map[string]*node)
	for _, name := range names {
		nodes[name] = newNode(t, name)
		command(t, "ip link set "+name+" master "+bridge)
	}
	return nodes
}

func quiet(t testing.TB, ifname string) {
	t.Helper()
	command(t, "sysctl -qw net.ipv6.conf."+ifname+".disable_ipv6=1")
}

func newNode(t testing.TB, name string) *node {
	t.Helper()
	n := &node{name: name, mac: testMAC(999)}
	if number, ok := strings.CutPrefix(name, "nic"); ok {
		n.mac = testMAC(int(number[0] - '0'))
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		var err error
		n.ns, err = netns.New()
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	command(t, fmt.Sprintf("ip link add %s type veth peer name eth0 netns /proc/%d/fd/%d address %s", name, os.Getpid(), int(n.ns), macText(n.mac)))
	t.Cleanup(func() {
		exec.Command("ip", "link", "del", name).Run()
		n.ns.Close()
	})
	quiet(t, name)
	n.run(t, "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1")
	n.run(t, "ip link set eth0 up")
	n.run(t, "ip link set lo up")
	carrier(t, name)
	return n
}

// carrier sets an interface up and waits until the kernel has noted that it is: a bridge
// forwards nothing of one that it gets before that, until then.
func carrier(t testing.TB, name string) {
	t.Helper()
	updates, done := make(chan netlink.LinkUpdate), make(chan struct{})
	if err := netlink.LinkSubscribe(updates, done); err != nil {
		t.Fatal(err)
	}
	defer func() {
		close(done)
		for range updates {
		}
	}()
	command(t, "ip link set "+name+" up")
	late := time.After(10 * time.Second)
	for {
		select {
		case u := <-updates:
			if a := u.Attrs(); a.Name == name && a.OperState == netlink.OperUp {
				return
			}
		case <-late:
			t.Fatalf("%s has no carrier", name)
		}
	}
}

// addIPv6 adds an address and waits until duplicate address detection is over.
func (n *node) addIPv6(t testing.TB, address string) {
	t.Helper()
	updates, done := make(chan netlink.AddrUpdate), make(chan struct{})
	if err := netlink.AddrSubscribeAt(n.ns, updates, done); err != nil {
		t.Fatal(err)
	}
	defer func() {
		close(done)
		for range updates {
		}
	}()
	n.run(t, "ip addr add "+address+" dev eth0")
	late := time.After(10 * time.Second)
	for {
		select {
		case u := <-updates:
			if u.LinkAddress.String() == address && u.Flags&unix.IFA_F_TENTATIVE == 0 {
				return
			}
		case <-late:
			t.Fatalf("%s: %s is tentative after 10 s", n.name, address)
		}
	}
}

// wire is a packet socket at the node's eth0.
type wire struct {
	t  testing.TB
	fd int
}

func (n *node) wire(t testing.TB) *wire {
	t.Helper()
	w := &wire{t: t}
	err := n.in(func() error {
		var err error
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		timeout := unix.NsecToTimeval((5 * time.Second).Nanoseconds())
		if err := unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<24); err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
		return unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(w.fd) })
	return w
}

// tag ends a frame, after all that its own lengths speak of, so that it is known again.
func tag(id uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte("nereid!"), id)
}

func (w *wire) send(frame []byte, id uint32) {
	w.t.Helper()
	if _, err := unix.Write(w.fd, append(bytes.Clone(frame), tag(id)...)); err != nil {
		w.t.Fatalf("send: %v", err)
	}
}

// receive lists what arrives until last does.
func (w *wire) receive(last uint32) map[uint32]bool {
	w.t.Helper()
	got := make(map[uint32]bool)
	b := make([]byte, 4096)
	for {
		n, _, err := unix.Recvfrom(w.fd, b, 0)
		if err != nil {
			w.t.Fatalf("receive: %v: frame %d did not come", err, last)
		}
		at := bytes.LastIndex(b[:n], []byte("nereid!"))
		if at < 0 || n-at != 11 {
			continue
		}
		id := binary.BigEndian.Uint32(b[at+7:])
		if id == last {
			return got
		}
		got[id] = true
	}
}

// marker is a frame that passes whatever the rules are.
func (n *node) marker() []byte {
	own := netip.AddrFrom4([4]byte{10, 0, 0, n.mac[5]})
	return arpPacket(broadcast, n.mac, 1, n.mac, own, [6]byte{}, netip.MustParseAddr("10.0.0.250"))
}

// counters reads those that are not zero.
func counters(t testing.TB, f *Firewall) map[string]uint64 {
	t.Helper()
	all, err := f.Counters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range all {
		if n == 0 {
			delete(all, name)
		}
	}
	return all
}

// applyTwice applies, and sees that the second time costs no transaction.
func applyTwice(t testing.TB, f *Firewall, w *world, o Options) {
	t.Helper()
	if err := applyAll(t.Context(), f, w.ports, w.fw, o); err != nil {
		t.Fatal(err)
	}
	before, err := system{}.generation(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := applyAll(t.Context(), f, w.ports, w.fw, o); err != nil {
		t.Fatal(err)
	}
	if after, err := (system{}).generation(t.Context()); err != nil || after != before {
		t.Fatalf("generation %d after the second Apply, %d after the first, %v", after, before, err)
	}
}

// newFirewall judges without connection tracking, which this kernel may not have
// for bridges, and is removed at the end.
func newFirewall(t testing.TB) *Firewall {
	f := &Firewall{Stateless: true}
	t.Cleanup(func() {
		for _, table := range tables() {
			exec.Command("nft", "delete", "table", table.String(), tableName).Run()
		}
	})
	return f
}
