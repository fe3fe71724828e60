//go:build netns

package router

import (
	"fmt"
	"strings"
	"testing"

	"nereid/api"
)

// specs are of two accounts with the same subnets on other VNIs.
func twoAccounts() []api.RouterSpec {
	return []api.RouterSpec{
		{Owner: ownerA, Networks: []api.RouterNetwork{
			network(100, "10.0.1.1/24", "90:b8:d0:00:0a:01", false), network(100, "fd00:1::1/64", "90:b8:d0:00:0a:01", false),
			network(101, "10.0.2.1/24", "90:b8:d0:00:0a:02", false), network(101, "fd00:2::1/64", "90:b8:d0:00:0a:02", false),
		}},
		{Owner: ownerB, Networks: []api.RouterNetwork{
			network(200, "10.0.1.1/24", "90:b8:d0:00:0b:01", false), network(200, "fd00:1::1/64", "90:b8:d0:00:0b:01", false),
			network(201, "10.0.2.1/24", "90:b8:d0:00:0b:02", false), network(201, "fd00:2::1/64", "90:b8:d0:00:0b:02", false),
		}},
	}
}

// TestNetNSRack: three servers, two accounts with the same subnets. Instances of
// an account reach one another and their gateways wherever they are, those of
// different accounts do not, and what a server routes is routed where it is sent.
func TestNetNSRack(t *testing.T) {
	l := newLab(t, 3)
	for _, v := range []int{100, 101, 200, 201} {
		l.vni(v, l.servers...)
	}
	s1, s2, s3 := l.servers[0], l.servers[1], l.servers[2]
	for _, s := range l.servers {
		l.apply(s, twoAccounts()...)
		defer l.dump(s)
	}
	l.instance("a1", s1, 100, "90:b8:d0:01:00:01", "10.0.1.5/24", "fd00:1::5/64")
	l.instance("a2", s2, 101, "90:b8:d0:01:00:02", "10.0.2.6/24", "fd00:2::6/64")
	l.instance("a3", s3, 100, "90:b8:d0:01:00:03", "10.0.1.7/24", "fd00:1::7/64")
	l.instance("a4", s1, 101, "90:b8:d0:01:00:04", "10.0.2.8/24", "fd00:2::8/64")
	// B has other addresses, but for one that A has too.
	l.instance("b1", s1, 200, "90:b8:d0:02:00:01", "10.0.1.5/24", "fd00:1::5/64")
	l.instance("b2", s2, 201, "90:b8:d0:02:00:02", "10.0.2.66/24", "fd00:2::66/64")

	seen := map[string]func() string{}
	for _, n := range []string{"a2", "b1", "b2"} {
		seen[n] = l.arrivals(n, "icmp type echo-request")
	}
	l.reaches("a1", "10.0.1.1", "fd00:1::1", "10.0.2.1", "10.0.2.6", "fd00:2::6", "10.0.1.7", "fd00:1::7", "10.0.2.8", "fd00:2::8")
	l.reaches("a2", "10.0.2.1", "fd00:2::1", "10.0.1.5", "fd00:1::5", "10.0.1.7", "fd00:1::7", "10.0.2.8", "fd00:2::8")
	l.reaches("a3", "10.0.2.6", "fd00:2::6", "10.0.1.5", "10.0.2.8")
	l.no("a1", "10.0.2.66", "fd00:2::66")
	l.reaches("b1", "10.0.2.66", "fd00:2::66", "10.0.1.1")
	l.no("b1", "10.0.2.6", "fd00:2::6", "10.0.2.8")
	for n, want := range map[string]string{"a2": "2", "b1": "0", "b2": "1"} {
		if got := seen[n](); got != want {
			t.Errorf("%s got %s IPv4 echo requests, want %s", n, got, want)
		}
	}
	l.listen("a2", ":80")
	l.calls("a1", "10.0.2.6:80", "a2 called by 10.0.1.5")
	l.calls("a3", "[fd00:2::6]:80", "a2 called by [fd00:1::7]")

	// The gateway's MAC is at the leg on each server, and no VXLAN device has it.
	for _, s := range l.servers {
		fdb := run(t, "ip", "netns", "exec", s.name, "bridge", "fdb")
		for _, line := range strings.Split(fdb, "\n") {
			if strings.HasPrefix(line, "90:b8:d0:00:0") && (strings.Contains(line, "dev vx") || !strings.Contains(line, "dev vr")) {
				t.Errorf("server %s: %s", s.name, line)
			}
		}
		if n := strings.Count(fdb, "90:b8:d0:00:0"); n != 4 {
			t.Errorf("server %s has %d gateway MACs:\n%s", s.name, n, fdb)
		}
	}
	// It was routed on the sender's server: each router saw its own direction only.
	for _, s := range l.servers {
		l.apply(s, twoAccounts()...)
	}
}

// TestNetNSGatewayStaysHome: questions for the gateway's MAC never leave the
// server.
func TestNetNSGatewayStaysHome(t *testing.T) {
	l := newLab(t, 2)
	l.vni(100, l.servers...)
	for _, s := range l.servers {
		l.apply(s, twoAccountsA100())
	}
	l.instance("a1", l.servers[0], 100, "90:b8:d0:01:00:01", "10.0.1.5/24", "fd00:1::5/64")
	l.instance("a2", l.servers[1], 100, "90:b8:d0:01:00:02", "10.0.1.6/24", "fd00:1::6/64")
	before := vxlanPackets(t, "s1")
	for range 3 {
		ip(t, "a1", "neigh flush dev eth0")
		l.reaches("a1", "10.0.1.1", "fd00:1::1")
	}
	if after := vxlanPackets(t, "s1"); after != before {
		t.Errorf("the VXLAN device of s1 sent %s packets, before %s", after, before)
	}
	l.reaches("a1", "10.0.1.6", "fd00:1::6")
	if after := vxlanPackets(t, "s1"); after == before {
		t.Errorf("the VXLAN device of s1 sent nothing at all: the count proves nothing")
	}
}

func twoAccountsA100() api.RouterSpec {
	s := twoAccounts()[0]
	s.Networks = s.Networks[:2]
	return s
}

func vxlanPackets(t *testing.T, server string) string {
	t.Helper()
	return strings.TrimSpace(run(t, "ip", "netns", "exec", server, "sh", "-c", "ip -s -j link show vx100 | grep -o '\"tx\":{[^}]*}' | grep -o '\"packets\":[0-9]*'"))
}

var _ = fmt.Sprint
