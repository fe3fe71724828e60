//go:build netns

package router

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nereid/api"
)

// gateways are specs for three servers: s1 does not provide the external tag, s2
// and s3 do. Both accounts use the same transit addresses.
func gateways(l *lab) (specs map[*server][]api.RouterSpec) {
	specs = map[*server][]api.RouterSpec{}
	vnis := map[string]uint32{ownerA: 300, ownerB: 301}
	for n, s := range l.servers {
		for _, spec := range twoAccounts() {
			for i := range 2 {
				spec.Networks[i].InternetNAT = true
			}
			spec.NAT = &api.NATSpec{VNI: vnis[spec.Owner], Transit: fmt.Sprintf("100.64.0.%d/24", n+1)}
			if n == 0 {
				spec.NAT.Via = []string{"100.64.0.2", "100.64.0.3"}
			} else {
				spec.NAT.Tag, spec.NAT.Address, spec.NAT.Gateway = "external", fmt.Sprintf("198.51.100.%d0/24", n+1), "198.51.100.1"
			}
			if spec.Owner == ownerA {
				for _, e := range []string{"198.51.100.20:8080", "198.51.100.30:8080"} {
					spec.NAT.Forwards = append(spec.NAT.Forwards, api.PortForward{Protocol: "tcp", External: e, Internal: "10.0.1.5:80"})
				}
			}
			specs[s] = append(specs[s], spec)
		}
	}
	return specs
}

// TestNetNSFailover: a server without the external tag, and two gateway servers,
// of which one dies and comes back.
func TestNetNSFailover(t *testing.T) {
	l := newLab(t, 3)
	for _, v := range []int{100, 101, 200, 201, 300, 301} {
		l.vni(v, l.servers...)
	}
	specs := gateways(l)
	for _, s := range l.servers {
		defer l.dump(s)
		l.apply(s, specs[s]...)
	}
	s1 := l.servers[0]
	for n, s := range l.servers {
		for _, vni := range []int{300, 301} {
			l.transit(s, vni, fmt.Sprintf("100.64.0.%d", n+1))
		}
	}
	l.instance("a1", s1, 100, "90:b8:d0:01:00:01", "10.0.1.5/24")
	l.instance("a4", s1, 101, "90:b8:d0:01:00:04", "10.0.2.8/24")
	l.instance("b1", s1, 200, "90:b8:d0:02:00:01", "10.0.1.5/24")
	l.listen("wan", "192.0.2.99:80")
	l.listen("a1", ":80")

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s1.Monitor.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	seen := l.arrivals("wan", "ip daddr { 203.0.113.7, 10.77.0.1, 192.168.9.200 }")
	for _, from := range []string{"a1", "b1"} {
		l.calls(from, "192.0.2.99:80", "wan called by 198.51.100.20:")
		l.reaches(from, "192.0.2.99")
		l.no(from, "203.0.113.7", "10.77.0.1")
	}
	l.no("a4", "192.0.2.99")
	if n := seen(); n != "0" {
		t.Errorf("%s packets left to where none may", n)
	}
	// Forwards at both, to an instance on neither.
	l.calls("wan", "198.51.100.20:8080", "a1 called by 100.64.0.2:")
	l.calls("wan", "198.51.100.30:8080", "a1 called by 100.64.0.3:")
	l.noCall("b1", "10.0.2.8:80")

	ip(t, "s2", "link set ul down")
	died := time.Now()
	for _, from := range []string{"a1", "b1"} {
		l.failsOver(from, "192.0.2.99:80", "wan called by 198.51.100.30:")
		t.Logf("%s: new connections %v after the gateway server died", from, time.Since(died).Round(time.Millisecond))
	}
	if g := s1.Gateways(); len(g) != 2 || g[0].Used != "100.64.0.3" || !slices.Equal(g[0].Down, []string{"100.64.0.2"}) {
		t.Errorf("gateways %+v", g)
	}
	l.apply(s1, specs[s1]...) // does not undo it
	l.calls("a1", "192.0.2.99:80", "wan called by 198.51.100.30:")

	// Back, when it was good for five seconds. All connections in the meantime work,
	// but for one that is being made at that moment: each gateway has its own.
	ip(t, "s2", "link set ul up")
	back := time.Now()
	changes := l.until("a1", "20")
	t.Logf("back at the first gateway server %v after it came back", time.Since(back).Round(time.Millisecond))
	if took := time.Since(back); changes != " 30 20" || took < minHold {
		t.Errorf("after it came back: %q, %v", changes, took)
	}
	// The other account's is decided by its own probes, at its own time.
	if changes := l.until("b1", "20"); changes != " 20" && changes != " 30 20" {
		t.Errorf("the other account, after it came back: %q", changes)
	}
	for _, st := range s1.Monitor.Status() {
		if st.Used != netip.MustParseAddr("100.64.0.2") || fmt.Sprint(st.Up) != "[true true]" {
			t.Errorf("status %+v", st)
		}
	}
}

// failsOver calls again and again until somebody answers with want. How soon that may be
// is TestMonitorFailover's, whose time is not the machine's.
func (l *lab) failsOver(from, to, want string) {
	l.Helper()
	for began := time.Now(); ; {
		got, err := call(from, to, 200*time.Millisecond)
		if err == nil && strings.HasPrefix(got, want) {
			return
		}
		if time.Since(began) > giveUp {
			l.Fatalf("%s: after %v no connection through another gateway server: %q, %v", from, giveUp, got, err)
		}
	}
}

// giveUp is when a test waits no longer: it says nothing about speed.
const giveUp = time.Minute

// until calls the WAN until the WAN sees the call come from 198.51.100.<last>. It
// returns the last bytes of the addresses that the WAN saw, one for each change, with a
// space before each. One call may fail: each gateway server tracks its own connections,
// so a call that is made while they change is broken.
func (l *lab) until(from, last string) (changes string) {
	l.Helper()
	broken := false
	for began := time.Now(); time.Since(began) < giveUp; {
		got, err := call(from, "192.0.2.99:80", 5*time.Second)
		if err != nil && broken {
			l.Errorf("%s: a second connection failed while the gateway server changed: %v", from, err)
			break
		}
		if err != nil {
			broken = true
			continue
		}
		by := netip.MustParseAddrPort(strings.TrimPrefix(got, "wan called by ")).Addr().String()
		if by = " " + strings.TrimPrefix(by, "198.51.100."); !strings.HasSuffix(changes, by) {
			changes += by
		}
		if by == " "+last {
			break
		}
	}
	return changes
}

// TestNetNSFailoverSix is the same in IPv6, for one account and one way.
func TestNetNSFailoverSix(t *testing.T) {
	l := newLab(t, 3)
	l.vni(100, l.servers...)
	l.vni(300, l.servers...)
	for n, s := range l.servers {
		spec := twoAccountsA100()
		spec.Networks[1].InternetNAT = true
		spec.NAT = &api.NATSpec{VNI: 300, Transit: fmt.Sprintf("fd00:64::%d/64", n+1)}
		if n == 0 {
			spec.NAT.Via = []string{"fd00:64::2", "fd00:64::3"}
		} else {
			spec.NAT.Tag, spec.NAT.Address, spec.NAT.Gateway = "external", fmt.Sprintf("2001:db8:e::%d0/64", n+1), "2001:db8:e::1"
			spec.NAT.Forwards = []api.PortForward{{Protocol: "tcp", External: "[2001:db8:e::30]:8080", Internal: "[fd00:1::5]:80"}}
		}
		l.apply(s, spec)
		defer l.dump(s)
	}
	for n, s := range l.servers {
		l.transit(s, 300, fmt.Sprintf("fd00:64::%d", n+1))
	}
	s1 := l.servers[0]
	l.instance("a1", s1, 100, "90:b8:d0:01:00:01", "fd00:1::5/64")
	l.listen("wan", "[2001:db8:99::99]:80")
	l.listen("a1", ":80")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s1.Monitor.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	l.calls("a1", "[2001:db8:99::99]:80", "wan called by [2001:db8:e::20]:")
	l.calls("wan", "[2001:db8:e::30]:8080", "a1 called by [fd00:64::3]:")
	ip(t, "s2", "link set ul down")
	died := time.Now()
	l.failsOver("a1", "[2001:db8:99::99]:80", "wan called by [2001:db8:e::30]:")
	t.Logf("new connections %v after the gateway server died", time.Since(died).Round(time.Millisecond))
}

// TestNetNSFullTable: an account fills the connection table of its namespace.
// Others are not hurt, nor is what is inside of the account.
func TestNetNSFullTable(t *testing.T) {
	b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil {
		t.Fatal(err)
	}
	limit, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	l := newLab(t, 1)
	for _, v := range []int{100, 101, 200, 201} {
		l.vni(v, l.servers...)
	}
	s1 := l.servers[0]
	l.apply(s1, natSpecs("198.51.100.10/24", "198.51.100.1")...)
	l.instance("a1", s1, 100, "90:b8:d0:01:00:01", "10.0.1.5/24")
	l.instance("a4", s1, 101, "90:b8:d0:01:00:04", "10.0.2.8/24")
	l.instance("b1", s1, 200, "90:b8:d0:02:00:01", "10.0.1.5/24")
	l.listen("wan", "192.0.2.99:80")
	l.listen("a4", ":80")
	l.calls("a1", "192.0.2.99:80", "wan called by")

	count := func(space string) (n int) {
		err := inside(s1.Dir+"/"+space, func() error {
			b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
			if err == nil {
				n, err = strconv.Atoi(strings.TrimSpace(string(b)))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	// So that none ends while a slow machine still makes others.
	err = inside(s1.Dir+"/nr-aaaaaaaa", func() error {
		return os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", []byte("600"), 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	err = inside(ns("a1"), func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		to := unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 98}}
		for i := range limit + limit/16 {
			to.Port, to.Addr[3] = 1024+i%60000, byte(1+i/60000%98)
			if err := unix.Sendto(fd, []byte{0}, 0, &to); err != nil && err != unix.ENOBUFS && err != unix.EAGAIN {
				return fmt.Errorf("datagram %d: %w", i, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := count("nr-aaaaaaaa"); n < limit*9/10 {
		t.Fatalf("the table of account A has %d of %d entries after %v: it is not full", n, limit, time.Since(began))
	} else {
		t.Logf("account A has %d of %d connections, made in %v", n, limit, time.Since(began).Round(time.Millisecond))
	}
	for range 20 {
		l.calls("b1", "192.0.2.99:80", "wan called by 198.51.100.10:")
	}
	l.calls("a1", "10.0.2.8:80", "a4 called by 10.0.1.5")
	if n := count("nr-external-external-0"); n != 0 {
		t.Errorf("what the accounts share has %d connections", n)
	}
}
