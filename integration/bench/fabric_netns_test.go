//go:build netns

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nereid/api"
	"nereid/integration/lab"
	"nereid/integration/lab/labtest"
)

// wayRounds is how often each way is measured, for wayTime, in turn; medians are
// printed. One connection is faster or slower than the next, as it happens, so that
// many short ones say more than a few long ones. Two ways are alike, and all are
// compared with the mean of these: how far they are from it is how exact the others
// are. Sender and receiver each have a processor of their own, without which it is
// twice as far.
const (
	wayRounds = 200
	wayTime   = 120 * time.Millisecond
)

// way is two instances that can talk, by the paths of their namespaces.
type way struct {
	name, from, to, address string
	rates                   []float64 // bytes/s
	bytes, busy             float64   // all of them, and CPU seconds
}

// cost is CPU seconds, of the whole system, per GB.
func (w way) cost() float64 { return w.busy / (w.bytes / 1e9) }

// TestBenchFabric compares TCP through a fabric, as agents make it on two servers,
// with the same VXLAN made by hand, and with a bridge without VXLAN. It prints; it
// judges nothing.
func TestBenchFabric(t *testing.T) {
	r := labtest.NewServerRack(t)
	ways := append(fabricWays(r), byHand(r, "bridge without VXLAN", "p", handSpec{}), byHand(r, "VXLAN by hand, br_netfilter left on", "f", handSpec{vxlan: true, brNetfilter: true}),
		byHand(r, "VXLAN by hand, again", "w", handSpec{vxlan: true}), byHand(r, "VXLAN by hand", "v", handSpec{vxlan: true}))
	for i := range ways {
		sink(t, ways[i].to)
	}
	for range wayRounds {
		for _, i := range rand.Perm(len(ways)) {
			w := &ways[i]
			bytes, took, busy := transfer(t, *w)
			w.rates, w.bytes, w.busy = append(w.rates, bytes/took), w.bytes+bytes, w.busy+busy
		}
	}
	var rate, cost float64
	for _, w := range ways[len(ways)-2:] {
		rate, cost = rate+median(w.rates)/2, cost+w.cost()/2
	}
	for _, w := range ways {
		fmt.Printf("%-36s %5.0f MB/s, %.3f of VXLAN by hand; CPU %.3f s/GB, %.3f of VXLAN by hand\n", w.name,
			median(w.rates)/1e6, median(w.rates)/rate, w.cost(), w.cost()/cost)
	}
}

// fabricWays are between agents' servers: two on which no NIC has a firewall, and two
// on which one has none and another has.
func fabricWays(r *labtest.Rack) []way {
	const owner = "a11ce000-0000-4000-8000-000000000001"
	nereid := func(args ...string) []byte {
		r.T.Helper()
		out, err := r.Exec(r.T.Context(), filepath.Join(r.Bin, "nereid"), append([]string{"--server", r.Socket()}, args...)...).CombinedOutput()
		if err != nil {
			r.T.Fatalf("nereid %v: %v\n%s", args, err, out)
		}
		return out
	}
	nereid("nictag", "create", "underlay", "--mtu", "9000")
	nereid("network", "create", "underlay", "--nic-tag", "underlay", "--subnet", "10.77.0.0/24", "--start", "10.77.0.11")
	nereid("fabric", "settings", "--underlay-nic-tag", "underlay")
	nereid("fabric", "vlan", "create", owner, "2", "--name", "web")
	nereid("fabric", "network", "create", owner, "2", "web", "--subnet", "10.0.2.0/24", "--gateway", "10.0.2.1")
	nereid("firewall", "create", "FROM any TO all vms ALLOW tcp PORT all", "--owner", owner)
	var n api.Network
	if err := json.Unmarshal(nereid("fabric", "network", "get", owner, "2", "web", "-o", "json"), &n); err != nil {
		r.T.Fatal(err)
	}
	ways := []way{{name: "fabric, servers without a firewall"}, {name: "fabric, a NIC without a firewall"}, {name: "fabric, a NIC with a firewall"}}
	for k := 1; k <= 4; k++ { // the first way is between the first two servers, the others between the others
		s := r.AddServer(filepath.Join(r.Bin, "nereid-agent"), lab.ServerSpec{
			Name: fmt.Sprintf("cn%d", k), UUID: fmt.Sprintf("4e455245-4944-4000-8000-00000000040%d", k),
			NICs: []lab.ServerNIC{{MAC: fmt.Sprintf("52:54:00:00:04:0%d", k), Bridge: "admin0"}, {MAC: fmt.Sprintf("52:54:00:00:05:0%d", k), Bridge: "data0"}},
		})
		if err := s.PowerOn(r.T.Context()); err != nil {
			r.T.Fatal(err)
		}
		r.WaitUUID(s.Spec.UUID, "pending", func(v api.Server) bool { return v.State == api.StatePending })
		nereid("server", "approve", s.Spec.UUID, "--hostname", s.Spec.Name)
		r.WaitUUID(s.Spec.UUID, "approved", func(v api.Server) bool { return v.State == api.StateApproved })
		nereid("nictag", "provide", s.Spec.Name, s.Spec.NICs[1].MAC, "underlay")
		nereid("nic", "create", "--network", "underlay", "--on", s.Spec.Name, "--underlay", "--owner", owner)
		for i := range ways {
			if (i == 0) != (k <= 2) {
				continue
			}
			args := []string{"nic", "create", "--network", fmt.Sprintf("%s=10.0.2.%d%d", n.UUID, i+1, k), "--on", s.Spec.Name, "--owner", owner, "--primary",
				"--belongs-to-type", "other", "--belongs-to", fmt.Sprintf("00000000-0000-4000-9000-0000000000%d%d", i, k), "-o", "json"}
			if i < 2 {
				args = append(args, "--no-firewall")
			}
			var nic api.NetworkNIC
			if err := json.Unmarshal(nereid(args...), &nic); err != nil {
				r.T.Fatal(err)
			}
			path := s.Namespace("nic-" + strings.ReplaceAll(nic.MAC, ":", ""))
			if k%2 == 1 {
				ways[i].from = path
			} else {
				ways[i].to, ways[i].address = path, nic.Addresses[0].IP
			}
		}
	}
	for s, err := range r.Client().Servers(r.T.Context()) {
		if err != nil {
			r.T.Fatal(err)
		}
		r.WaitUUID(s.UUID, "at its spec", func(v api.Server) bool { return v.NetworkApplied })
	}
	return ways
}

// handSpec is what to make by hand. br_netfilter is on unless it is set off, where the
// kernel has it; an agent sets it off.
type handSpec struct{ vxlan, brNetfilter bool }

// byHand makes two namespaces that stand for servers on the rack's data network, and
// an instance on each, with ip and bridge.
func byHand(r *labtest.Rack, name, id string, spec handSpec) way {
	t, net := r.T, "10.78."+strconv.Itoa(int(id[0]))+"."
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	w := way{name: name, address: "10.0.9.2"}
	for k := 1; k <= 2; k++ {
		k, other := strconv.Itoa(k), strconv.Itoa(3-k)
		server, guest, cable := r.Namespace+"-"+id+k, r.Namespace+"-"+id+"i"+k, "hand"+id+k
		for _, n := range []string{server, guest} {
			ip("ip", "netns", "add", n)
			t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", n).Run() })
		}
		if _, err := os.Stat("/proc/sys/net/bridge"); err == nil && !spec.brNetfilter {
			ip("ip", "netns", "exec", server, "sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=0", "net.bridge.bridge-nf-call-ip6tables=0", "net.bridge.bridge-nf-call-arptables=0")
		}
		ip("ip", "-n", r.Namespace, "link", "add", cable, "mtu", "9000", "type", "veth", "peer", "name", "eth1", "mtu", "9000", "netns", server)
		ip("ip", "-n", r.Namespace, "link", "set", cable, "master", "data0", "up")
		ip("ip", "-n", server, "link", "set", "eth1", "up")
		ip("ip", "-n", server, "link", "add", "br0", "mtu", "8950", "type", "bridge")
		ip("ip", "-n", server, "link", "set", "br0", "up")
		ip("ip", "-n", server, "link", "add", "port", "mtu", "8950", "type", "veth",
			"peer", "name", "eth0", "address", "02:00:00:00:09:0"+k, "mtu", "8950", "netns", guest)
		ip("ip", "-n", server, "link", "set", "port", "master", "br0", "up")
		ip("ip", "-n", guest, "link", "set", "eth0", "up")
		ip("ip", "-n", guest, "addr", "add", "10.0.9."+k+"/24", "dev", "eth0")
		if spec.vxlan {
			ip("ip", "-n", server, "addr", "add", net+k+"/24", "dev", "eth1")
			ip("ip", "-n", server, "link", "add", "vx99", "mtu", "8950", "type", "vxlan", "id", "99", "local", net+k, "dstport", "4789", "nolearning")
			ip("ip", "-n", server, "link", "set", "vx99", "master", "br0", "up")
			ip("bridge", "-n", server, "fdb", "add", "02:00:00:00:09:0"+other, "dev", "vx99", "dst", net+other, "self", "static")
			ip("bridge", "-n", server, "fdb", "add", "02:00:00:00:09:0"+other, "dev", "vx99", "master", "static")
			ip("ip", "-n", guest, "neigh", "add", "10.0.9."+other, "lladdr", "02:00:00:00:09:0"+other, "dev", "eth0", "nud", "permanent")
		} else {
			ip("ip", "-n", server, "link", "set", "eth1", "master", "br0")
		}
		if k == "1" {
			w.from = "/run/netns/" + guest
		} else {
			w.to = "/run/netns/" + guest
		}
	}
	return w
}

// sink reads and drops what comes to port 7.
func sink(t *testing.T, path string) {
	t.Helper()
	var l net.Listener
	if err := lab.Inside(path, func() (err error) { l, err = net.Listen("tcp", ":7"); return err }); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				unpin := pin(t, 1)
				defer unpin()
				_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 1<<18))
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
}

// transfer sends for wayTime over one connection: bytes, seconds, and seconds of CPU
// time of the whole system.
func transfer(t *testing.T, w way) (bytes, took, busy float64) {
	t.Helper()
	var c net.Conn
	err := lab.Inside(w.from, func() (err error) {
		c, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(context.WithoutCancel(t.Context()), "tcp", net.JoinHostPort(w.address, "7"))
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", w.name, err)
	}
	defer c.Close()
	unpin := pin(t, 0)
	defer unpin()
	buf := make([]byte, 1<<18)
	total, start, before := 0, time.Now(), busySeconds(t)
	_ = c.SetDeadline(start.Add(wayTime))
	for {
		n, err := c.Write(buf)
		total += n
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			t.Fatalf("%s: %v", w.name, err)
		}
	}
	return float64(total), time.Since(start).Seconds(), busySeconds(t) - before
}

// busySeconds is the time that the system's processors worked (proc_stat(5)).
func busySeconds(t *testing.T) float64 {
	t.Helper()
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	sum := 0.0
	for i, f := range strings.Fields(line)[1:] {
		if n, err := strconv.ParseFloat(f, 64); err == nil && i != 3 && i != 4 && i < 8 { // not idle, iowait, guests
			sum += n
		}
	}
	return sum / 100
}

// pin keeps the calling goroutine on one processor until unpin.
func pin(t *testing.T, processor int) (unpin func()) {
	runtime.LockOSThread()
	var before, one unix.CPUSet
	one.Set(processor % runtime.NumCPU())
	if err := errors.Join(unix.SchedGetaffinity(0, &before), unix.SchedSetaffinity(0, &one)); err != nil {
		t.Errorf("keep a thread on processor %d: %v", processor, err)
	}
	return func() {
		_ = unix.SchedSetaffinity(0, &before)
		runtime.UnlockOSThread()
	}
}
