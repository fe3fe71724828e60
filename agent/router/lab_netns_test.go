//go:build netns

package router

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"nereid/api"
)

// TestMain runs the whole test binary in a network and a mount namespace of its
// own, with an empty /run, so that nothing of it is seen outside and nothing is
// left:
//
//	                 bridge underlay 192.168.9.0/24
//	server s1 .1           server s2 .2           server s3 .3
//	 vb<vni> instances      ...
//	 brext ------------- bridge external 198.51.100.0/24 ------- wan .1
func TestMain(m *testing.M) {
	const mark = "NEREID_ROUTER_NETNS"
	if os.Getenv(mark) == "" {
		unshare, err := exec.LookPath("unshare")
		if err == nil {
			err = os.Setenv(mark, "1")
		}
		if err == nil {
			err = syscall.Exec(unshare, append([]string{"unshare", "--net", "--mount", "--"}, os.Args...), os.Environ())
		}
		fmt.Fprintln(os.Stderr, "this tier needs root and util-linux's unshare:", err)
		os.Exit(1)
	}
	if os.Getenv(applyEnv) != "" {
		os.Exit(m.Run()) // a process of a test, in the same namespaces
	}
	if err := syscall.Mount("none", "/run", "tmpfs", 0, ""); err != nil {
		fmt.Fprintln(os.Stderr, "mount:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

const (
	ownerA = "aaaaaaaa-0000-4000-8000-000000000001"
	ownerB = "bbbbbbbb-0000-4000-8000-000000000002"
)

// lab is the topology above.
type lab struct {
	*testing.T
	servers []*server
	entries []entry
}

type server struct {
	*Routers
	name     string
	number   int
	underlay string
	vnis     []int
	steps    []string // of the last Apply
}

// entry is one of the map.
type entry struct {
	vni     int
	ip, mac string
	server  *server
	port    string // of an instance, on its server
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// ip runs lines of ip(8) in a namespace.
func ip(t *testing.T, ns string, lines ...string) {
	t.Helper()
	batch(t, ns, "ip", lines)
}

func batch(t *testing.T, ns, tool string, lines []string) {
	t.Helper()
	args := []string{"-batch", "-"}
	if ns != "" {
		args = append([]string{"netns", "exec", ns, tool}, args...)
		tool = "ip"
	}
	cmd := exec.Command(tool, args...)
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("in %s: %s: %v\n%s", ns, strings.Join(lines, "; "), err, out)
	}
}

func (l *lab) namespace(name string) {
	ip(l.T, "", "netns add "+name)
	ip(l.T, name, "link set lo up")
	l.Cleanup(func() { ip(l.T, "", "netns del "+name) })
}

// newLab makes the networks outside the servers.
func newLab(t *testing.T, servers int) *lab {
	l := &lab{T: t}
	for _, b := range []string{"underlay", "external"} {
		ip(t, "", "link add "+b+" type bridge forward_delay 0 mcast_snooping 0", "link set "+b+" up")
		t.Cleanup(func() { ip(t, "", "link del "+b) })
	}
	l.namespace("wan")
	// At once: what belongs to a namespace goes only some time after its name.
	t.Cleanup(func() { ip(t, "", "link del wan") })
	ip(t, "", "link add wan type veth peer name eth0 netns wan", "link set wan master external up")
	ip(t, "wan", "addr add 198.51.100.1/24 dev eth0", "addr add 2001:db8:e::1/64 dev eth0 nodad", "link set eth0 up",
		"addr add 192.0.2.99/32 dev lo", "addr add 203.0.113.7/32 dev lo", "addr add 10.77.0.1/32 dev lo", "addr add 192.168.9.200/32 dev lo", "addr add 2001:db8:99::99/128 dev lo nodad")
	for n := 1; n <= servers; n++ {
		s := &server{name: fmt.Sprintf("s%d", n), number: n, underlay: fmt.Sprintf("192.168.9.%d", n)}
		l.namespace(s.name)
		ip(t, "", "link add ul"+s.name+" type veth peer name ul netns "+s.name, "link set ul"+s.name+" master underlay up",
			"link add ex"+s.name+" type veth peer name ex netns "+s.name, "link set ex"+s.name+" master external up")
		ip(t, s.name, "addr add "+s.underlay+"/24 dev ul", "link set ul up",
			"link add brext type bridge forward_delay 0 mcast_snooping 0", "link set ex master brext up", "link set brext up", "link property add dev brext altname nbexternal")
		t.Cleanup(func() { ip(t, "", "link del ul"+s.name, "link del ex"+s.name) })
		s.Routers = &Routers{Host: "/run/netns/" + s.name, Dir: "/run/routers/" + s.name}
		s.Monitor = NewMonitor(s.Host, s.Dir, slog.New(slog.NewTextHandler(t.Output(), nil)))
		s.hook = func(st step) error { s.steps = append(s.steps, st.String()); return nil }
		t.Cleanup(func() {
			if err := s.Apply(context.Background(), nil, Env{}); err != nil {
				t.Errorf("server %s: remove all: %v", s.name, err)
			}
			if left, _ := os.ReadDir(s.Dir); len(left) > 0 {
				t.Errorf("server %s: left %v", s.name, left)
			}
		})
		l.servers = append(l.servers, s)
	}
	return l
}

// vni makes a VNI's bridge and VXLAN device on servers, as agent/network does.
func (l *lab) vni(vni int, servers ...*server) {
	for _, s := range servers {
		// With a MAC of its own the bridge keeps it, and the neighbours on it.
		ip(l.T, s.name, fmt.Sprintf("link add vb%d address 02:00:00:%02x:%02x:%02x type bridge forward_delay 0 mcast_snooping 0", vni, vni>>8, vni&255, s.number),
			fmt.Sprintf("link set vb%d mtu 1400 addrgenmode none", vni),
			fmt.Sprintf("link add vx%d mtu 1400 type vxlan id %d local %s dstport 4789 nolearning", vni, vni, s.underlay),
			fmt.Sprintf("link set vx%d master vb%d addrgenmode none", vni, vni),
			fmt.Sprintf("link set vx%d type bridge_slave neigh_suppress on learning off flood off mcast_flood off bcast_flood off", vni),
			fmt.Sprintf("link set vx%d up", vni), fmt.Sprintf("link set vb%d up", vni))
		s.vnis = append(s.vnis, vni)
	}
}

// learn puts an entry into the map of all servers that have its VNI.
func (l *lab) learn(e entry) {
	for _, s := range l.servers {
		if !slices.Contains(s.vnis, e.vni) {
			continue
		}
		// As agent/network does: IPv6 addresses of what is here are not among the
		// bridge's neighbours, or it would not pass questions on to ports that have
		// proxy_arp_wifi.
		if s == e.server && netip.MustParseAddr(e.ip).Is6() {
			if e.port != "" {
				batch(l.T, s.name, "bridge", []string{fmt.Sprintf("fdb replace %s dev %s master static", e.mac, e.port)})
			}
			continue
		}
		ip(l.T, s.name, fmt.Sprintf("neigh replace %s lladdr %s dev vb%d nud permanent", e.ip, e.mac, e.vni))
		if s == e.server {
			if e.port != "" {
				batch(l.T, s.name, "bridge", []string{fmt.Sprintf("fdb replace %s dev %s master static", e.mac, e.port)})
			}
			continue
		}
		batch(l.T, s.name, "bridge", []string{fmt.Sprintf("fdb replace %s dev vx%d dst %s self", e.mac, e.vni, e.server.underlay),
			fmt.Sprintf("fdb replace %s dev vx%d master static", e.mac, e.vni)})
	}
	l.entries = append(l.entries, e)
}

// instance makes a namespace that stands for one, with a NIC on a VNI.
func (l *lab) instance(name string, s *server, vni int, mac string, addresses ...string) {
	l.namespace(name)
	port := "p" + name
	ip(l.T, s.name, "link add "+port+" mtu 1400 type veth peer name eth0 mtu 1400 address "+mac+" netns "+name,
		fmt.Sprintf("link set %s master vb%d addrgenmode none", port, vni),
		"link set "+port+" type bridge_slave learning off flood off bcast_flood off proxy_arp_wifi on", "link set "+port+" up")
	lines := []string{"link set eth0 up"}
	for _, a := range addresses {
		p := netip.MustParsePrefix(a)
		gw := p.Masked().Addr().Next()
		lines = append(lines, "addr add "+a+" dev eth0"+map[bool]string{true: " nodad"}[p.Addr().Is6()])
		lines = append(lines, "route add default via "+gw.String()+" dev eth0")
		l.learn(entry{vni, p.Addr().String(), mac, s, port})
	}
	ip(l.T, name, lines...)
}

// transit puts a router's transit address into the map.
func (l *lab) transit(s *server, vni int, a string) {
	addr := netip.MustParseAddr(a)
	l.learn(entry{vni, a, TransitMAC(addr).String(), s, ""})
}

func (s *server) env() Env {
	return Env{
		Server: fmt.Sprintf("00000000-0000-4000-8000-%012d", s.number),
		Bridge: func(tag string, vlan int) string {
			if tag == "external" && vlan == 0 {
				return "nbexternal"
			}
			return ""
		},
		Deny: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("192.168.9.0/24")},
	}
}

// apply applies specs twice. The second time there is nothing to do.
func (l *lab) apply(s *server, specs ...api.RouterSpec) {
	l.Helper()
	for try := range 2 {
		s.steps = nil
		if err := s.Apply(l.Context(), specs, s.env()); err != nil {
			l.Fatalf("server %s: %v", s.name, err)
		}
		if try == 1 && len(s.steps) > 0 {
			l.Fatalf("server %s: the second Apply did\n%s", s.name, strings.Join(s.steps, "\n"))
		}
	}
}

func network(vni uint32, gateway, mac string, internet bool) api.RouterNetwork {
	return api.RouterNetwork{VNI: vni, Gateway: gateway, MAC: mac, InternetNAT: internet}
}

// ns is where a namespace is: of the lab, or a router's on a server.
func ns(name string) string { return "/run/netns/" + name }

// ping reports whether an answer comes.
func ping(from, to string, more ...string) bool {
	args := append([]string{"netns", "exec", from, "ping", "-n", "-c1", "-W2"}, more...)
	return exec.Command("ip", append(args, to)...).Run() == nil
}

func (l *lab) reaches(from string, to ...string) {
	l.Helper()
	for _, a := range to {
		if !ping(from, a) {
			l.Errorf("%s does not reach %s", from, a)
		}
	}
}

// no checks that no answer comes. What must not arrive is best looked for where it
// would.
func (l *lab) no(from string, to ...string) {
	l.Helper()
	for _, a := range to {
		if ping(from, a, "-W1") {
			l.Errorf("%s reaches %s", from, a)
		}
	}
}

// listen runs a TCP server that says who called, and with which name it listens.
func (l *lab) listen(where, addr string) {
	var ln net.Listener
	if err := inside(ns(where), func() (err error) { ln, err = net.Listen("tcp", addr); return err }); err != nil {
		l.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(30 * time.Second))
				fmt.Fprintf(c, "%s called by %s\n", where, c.RemoteAddr())
				io.Copy(c, c)
			})
		}
	})
	l.Cleanup(func() { ln.Close(); wg.Wait() })
}

// call connects, and returns what the server says.
func call(where, to string, limit time.Duration) (string, error) {
	var c net.Conn
	err := inside(ns(where), func() (err error) { c, err = net.DialTimeout("tcp", to, limit); return err })
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(limit))
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err
}

func (l *lab) calls(from, to, want string) {
	l.Helper()
	got, err := call(from, to, 5*time.Second)
	if err != nil || !strings.HasPrefix(got, want) {
		l.Errorf("%s calls %s: %q, %v; want %q", from, to, got, err, want)
	}
}

func (l *lab) noCall(from, to string) {
	l.Helper()
	if got, err := call(from, to, time.Second); err == nil {
		l.Errorf("%s calls %s: %q", from, to, got)
	}
}

// arrivals counts packets that a namespace gets and that match.
func (l *lab) arrivals(where, match string) func() string {
	text := fmt.Sprintf("table inet seen_%d { chain c { type filter hook prerouting priority -400; %s counter; }; }", len(match), match)
	cmd := exec.Command("ip", "netns", "exec", where, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		l.Fatalf("nft: %v %s", err, out)
	}
	return func() string {
		out := run(l.T, "ip", "netns", "exec", where, "nft", "list", "table", "inet", fmt.Sprintf("seen_%d", len(match)))
		_, after, _ := strings.Cut(out, "counter packets ")
		n, _, _ := strings.Cut(after, " ")
		return n
	}
}

// dump shows everything of a server, for a failed test.
func (l *lab) dump(s *server) {
	if !l.Failed() {
		return
	}
	var b bytes.Buffer
	files, _ := os.ReadDir(s.Dir)
	for _, f := range files {
		for _, c := range []string{"ip addr", "ip route show table all", "ip -6 route show table all", "ip rule", "ip neigh", "nft list ruleset"} {
			inside(s.Dir+"/"+f.Name(), func() error {
				out, _ := exec.Command("sh", "-c", c).CombinedOutput()
				fmt.Fprintf(&b, "== %s: %s\n%s", f.Name(), c, out)
				return nil
			})
		}
	}
	l.Logf("server %s:\n%s%s", s.name, run(l.T, "ip", "netns", "exec", s.name, "bridge", "fdb"), b.String())
}
