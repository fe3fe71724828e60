//go:build netns

package router

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"nereid/api"
)

// natSpecs are two accounts with one subnet, whose networks on VNI 100 and 200
// have internet_nat. Both use s1's external address.
func natSpecs(address, gateway string, forwards ...api.PortForward) []api.RouterSpec {
	specs := twoAccounts()
	for i := range specs {
		for n := range 2 {
			specs[i].Networks[n].InternetNAT = true
		}
		specs[i].NAT = &api.NATSpec{Tag: "external", Address: address, Gateway: gateway}
	}
	specs[0].NAT.Forwards = forwards
	return specs
}

// TestNetNSInternet: a server that provides the external tag.
func TestNetNSInternet(t *testing.T) {
	l := newLab(t, 2)
	for _, v := range []int{100, 101, 200, 201} {
		l.vni(v, l.servers...)
	}
	s1 := l.servers[0]
	forward := api.PortForward{Protocol: "tcp", External: "198.51.100.10:8080", Internal: "10.0.1.5:80"}
	elsewhere := api.PortForward{Protocol: "tcp", External: "198.51.100.20:8081", Internal: "10.0.1.5:80"}
	datagrams := api.PortForward{Protocol: "udp", External: "198.51.100.10:53", Internal: "10.0.1.5:5353"}
	l.apply(s1, natSpecs("198.51.100.10/24", "198.51.100.1", forward, elsewhere, datagrams)...)
	defer l.dump(s1)
	l.instance("a1", s1, 100, "90:b8:d0:01:00:01", "10.0.1.5/24")
	l.instance("a4", s1, 101, "90:b8:d0:01:00:04", "10.0.2.8/24")
	l.instance("b1", s1, 200, "90:b8:d0:02:00:01", "10.0.1.5/24")
	l.listen("wan", "192.0.2.99:80")
	l.listen("a1", ":80")
	l.listen("a1", ":81")

	t.Run("out", func(t *testing.T) {
		l := &lab{T: t}
		for range 2 {
			l.calls("a1", "192.0.2.99:80", "wan called by 198.51.100.10:")
			l.calls("b1", "192.0.2.99:80", "wan called by 198.51.100.10:")
		}
		l.reaches("a1", "192.0.2.99", "198.51.100.1")
		l.reaches("b1", "192.0.2.99")
		// Accounts with one address have different ports.
		a, _ := call("a1", "192.0.2.99:80", 5*time.Second)
		b, _ := call("b1", "192.0.2.99:80", 5*time.Second)
		pa := netip.MustParseAddrPort(strings.TrimPrefix(a, "wan called by ")).Port()
		pb := netip.MustParseAddrPort(strings.TrimPrefix(b, "wan called by ")).Port()
		if pa < 32768 || pa > 33791 || pb < 33792 || pb > 34303 {
			t.Errorf("ports %d and %d are not of the blocks 32768+1024 and 33792+512", pa, pb)
		}
		l.noCall("a4", "192.0.2.99:80")
		l.no("a4", "192.0.2.99")
	})
	t.Run("forward", func(t *testing.T) {
		l := &lab{T: t}
		l.calls("wan", "198.51.100.10:8080", "a1 called by 198.51.100.1:")
		l.echoUDP("a1", "10.0.1.5:5353")
		for _, size := range []int{10, 2500} { // the second in fragments
			if err := sendUDP("wan", "198.51.100.10:53", size); err != nil {
				t.Errorf("UDP forward, %d bytes: %v", size, err)
			}
		}
		l.noCall("wan", "198.51.100.10:80")
		l.noCall("wan", "198.51.100.10:81")
		l.noCall("wan", "198.51.100.10:8081")
		// From the other account, and from the same.
		l.calls("b1", "198.51.100.10:8080", "a1 called by 198.51.100.10:")
		l.calls("a1", "198.51.100.10:8080", "a1 called by 198.51.100.10:")
		// What is inside is not to be had by its own address from outside.
		ip(t, "wan", "route add 10.0.0.0/16 via 198.51.100.10")
		l.no("wan", "10.0.1.5", "10.0.1.1")
		l.noCall("wan", "10.0.1.5:80")
	})
	t.Run("never", func(t *testing.T) {
		l := &lab{T: t}
		// The wan namespace has these addresses, so that a packet that leaves arrives.
		// There are an "admin network", the underlay, and a private address.
		seen := l.arrivals("wan", "ip daddr { 203.0.113.7, 192.168.9.200, 10.77.0.1, 10.0.2.66, 224.1.2.3 }")
		l.no("a1", "203.0.113.7", "192.168.9.200", "10.77.0.1", "10.0.2.66")
		if n := seen(); n != "0" {
			t.Errorf("%s packets left", n)
		}
		// They do arrive when they are not denied.
		e := s1.env()
		e.Deny = nil
		if err := s1.Apply(t.Context(), natSpecs("198.51.100.10/24", "198.51.100.1", forward, elsewhere), e); err != nil {
			t.Fatal(err)
		}
		l.reaches("a1", "203.0.113.7")
		if n := seen(); n != "1" {
			t.Errorf("%s packets left when allowed, want 1", n)
		}
		// Other protocols have no ports to know the account by.
		gre := l.arrivals("wan", "meta l4proto gre")
		err := inside(ns("a1"), func() error {
			c, err := net.Dial("ip4:47", "192.0.2.99")
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write(make([]byte, 40))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		l.apply(s1, natSpecs("198.51.100.10/24", "198.51.100.1", forward, elsewhere)...)
		l.no("a1", "203.0.113.7")
		if n := gre(); n != "0" {
			t.Errorf("%s GRE packets left", n)
		}
		path := os.Getenv("PATH")
		t.Setenv("PATH", "") // no program is needed
		drops, err := s1.Drops(t.Context())
		t.Setenv("PATH", path)
		if err != nil || drops["to_private"] != 1 { // the one since the rules were last changed
			t.Errorf("drops: %v, %v", drops, err)
		}
	})
	t.Run("errors and fragments", func(t *testing.T) {
		l := &lab{T: t}
		// An ICMP error about a port, and one about an echo request.
		if err := sendUDP("a1", "192.0.2.99:9", 10); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("UDP to a closed port: %v, want connection refused", err)
		}
		if out := run(t, "sh", "-c", "ip netns exec a1 ping -n -c1 -W2 -t 2 192.0.2.99 || true"); !strings.Contains(out, "From 198.51.100.10") {
			t.Errorf("time exceeded in the uplink: %s", out)
		}
		// Too big for the way back: the answer of 1472 bytes is in fragments.
		for _, size := range []string{"1300", "3000"} {
			if !ping("a1", "192.0.2.99", "-s", size) {
				l.Errorf("no answer with %s bytes", size)
			}
		}
	})
	t.Run("internet_nat taken away", func(t *testing.T) {
		l := &lab{T: t}
		specs := natSpecs("198.51.100.10/24", "198.51.100.1")
		specs[0].Networks[0].InternetNAT = false
		l.apply(s1, specs...)
		l.noCall("a1", "192.0.2.99:80")
		l.calls("b1", "192.0.2.99:80", "wan called by 198.51.100.10:")
		l.noCall("wan", "198.51.100.10:8080")
		// A's router goes, B keeps its ports.
		l.apply(s1, specs[1])
		l.calls("b1", "192.0.2.99:80", "wan called by 198.51.100.10:")
		if list := spaces(s1); list != "nr-bbbbbbbb nr-external-external-0" {
			t.Errorf("namespaces: %s", list)
		}
		b, _ := call("b1", "192.0.2.99:80", 5*time.Second)
		if p := netip.MustParseAddrPort(strings.TrimPrefix(b, "wan called by ")).Port(); p < 33792 || p > 34303 {
			t.Errorf("B's port is %d now", p)
		}
	})
}

// TestNetNSInternetSix is NAT66, by the same means.
func TestNetNSInternetSix(t *testing.T) {
	l := newLab(t, 1)
	for _, v := range []int{100, 101, 200, 201} {
		l.vni(v, l.servers...)
	}
	s1 := l.servers[0]
	l.apply(s1, natSpecs("2001:db8:e::10/64", "2001:db8:e::1", api.PortForward{Protocol: "tcp", External: "[2001:db8:e::10]:8080", Internal: "[fd00:1::5]:80"})...)
	defer l.dump(s1)
	l.instance("a1", s1, 100, "90:b8:d0:01:00:01", "10.0.1.5/24", "fd00:1::5/64")
	l.instance("b1", s1, 200, "90:b8:d0:02:00:01", "10.0.1.5/24", "fd00:1::5/64")
	l.instance("a4", s1, 101, "90:b8:d0:01:00:04", "fd00:2::8/64")
	l.listen("wan", "[2001:db8:99::99]:80")
	l.listen("a1", ":80")
	l.calls("a1", "[2001:db8:99::99]:80", "wan called by [2001:db8:e::10]:")
	l.calls("b1", "[2001:db8:99::99]:80", "wan called by [2001:db8:e::10]:")
	l.calls("wan", "[2001:db8:e::10]:8080", "a1 called by [2001:db8:e::1]:")
	l.reaches("a1", "2001:db8:99::99")
	l.noCall("a4", "[2001:db8:99::99]:80")
	if err := sendUDP("a1", "[2001:db8:99::99]:9", 10); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("UDP to a closed port: %v, want connection refused", err)
	}
	// The way back is narrower inside. A router does not fragment IPv6, but says so:
	// the first answer is lost, the sender learns.
	for _, size := range []string{"1300", "3000"} {
		if !ping("a1", "2001:db8:99::99", "-c2", "-s", size) {
			t.Errorf("no answer with %s bytes", size)
		}
	}
	l.no("a1", "192.0.2.99") // no IPv4 NAT
}

// echoUDP answers datagrams with what is in them.
func (l *lab) echoUDP(where, addr string) {
	var c net.PacketConn
	if err := inside(ns(where), func() (err error) { c, err = net.ListenPacket("udp", addr); return err }); err != nil {
		l.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 65536)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			c.WriteTo(buf[:n], from)
		}
	}()
	l.Cleanup(func() { c.Close(); <-done })
}

// sendUDP sends a datagram and waits for an answer or an ICMP error.
func sendUDP(from, to string, size int) error {
	var c net.Conn
	if err := inside(ns(from), func() (err error) { c, err = net.Dial("udp", to); return err }); err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(make([]byte, size)); err != nil {
		return err
	}
	c.SetReadDeadline(time.Now().Add(3 * time.Second))
	_, err := c.Read(make([]byte, 65536))
	return err
}

func spaces(s *server) string {
	files, err := os.ReadDir(s.Dir)
	if err != nil {
		return err.Error()
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	return strings.Join(names, " ")
}
