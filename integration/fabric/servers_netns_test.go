//go:build netns

package fabric

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nereid/api"
	"nereid/integration/lab"
	"nereid/integration/lab/labtest"
)

// servers is a rack of four whole servers without machines:
//
//	admin0  10.99.99.0/24    head node, and eth0 of all
//	data0   10.77.0.0/24     eth1 of all: the underlay
//	ext0    198.51.100.0/24  eth2 of cn1 and cn2, which therefore do NAT; the rest of
//	                         the world is the rack's own namespace, .1 and 192.0.2.99
type servers struct {
	operator
	all []*lab.Server
}

const world, world2 = "198.51.100.1", "192.0.2.99"

func newServers(t *testing.T) *servers {
	s := &servers{operator: operator{labtest.NewServerRack(t)}}
	if err := s.AddBridge(t.Context(), "ext0", world+"/24", world2+"/32"); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 4; n++ {
		spec := lab.ServerSpec{
			Name: fmt.Sprintf("cn%d", n),
			UUID: fmt.Sprintf("4e455245-4944-4000-8000-0000000002%02x", n),
			NICs: []lab.ServerNIC{
				{MAC: fmt.Sprintf("52:54:00:00:01:%02x", n), Bridge: "admin0"},
				{MAC: fmt.Sprintf("52:54:00:00:02:%02x", n), Bridge: "data0"},
			},
		}
		if n <= 2 {
			spec.NICs = append(spec.NICs, lab.ServerNIC{MAC: fmt.Sprintf("52:54:00:00:03:%02x", n), Bridge: "ext0"})
		}
		s.all = append(s.all, s.AddServer(filepath.Join(s.Bin, "nereid-agent"), spec))
	}
	s.nereid("nictag", "create", "underlay", "--mtu", "9000")
	s.nereid("nictag", "create", "external")
	s.nereid("network", "create", "underlay", "--nic-tag", "underlay", "--subnet", "10.77.0.0/24", "--start", "10.77.0.11")
	s.nereid("network", "create", "external", "--nic-tag", "external", "--subnet", "198.51.100.0/24", "--gateway", world, "--start", "198.51.100.10")
	s.nereid("fabric", "settings", "--underlay-nic-tag", "underlay", "--nat-network", "external")
	for _, m := range s.all {
		s.powerOn(m)
		s.WaitUUID(m.Spec.UUID, "pending", func(v api.Server) bool { return v.State == api.StatePending })
		s.nereid("server", "approve", m.Spec.UUID, "--hostname", m.Spec.Name)
		s.WaitUUID(m.Spec.UUID, "approved", func(v api.Server) bool { return v.State == api.StateApproved })
		s.nereid("nictag", "provide", m.Spec.Name, m.Spec.NICs[1].MAC, "underlay")
		s.nereid("nic", "create", "--network", "underlay", "--on", m.Spec.Name, "--underlay", "--owner", alice)
		if len(m.Spec.NICs) > 2 {
			s.nereid("nictag", "provide", m.Spec.Name, m.Spec.NICs[2].MAC, "external")
		}
	}
	return s
}

func (s *servers) powerOn(m *lab.Server) {
	s.T.Helper()
	if err := m.PowerOn(s.T.Context()); err != nil {
		s.T.Fatal(err)
	}
}

// settled waits until every server has applied what is wanted of it now.
func (s *servers) settled(but ...*lab.Server) {
	s.T.Helper()
	for _, m := range s.all {
		if slices.Contains(but, m) {
			continue
		}
		s.WaitUUID(m.Spec.UUID, "at the newest spec", func(v api.Server) bool {
			return v.NetworkApplied
		})
	}
}

// instance is a NIC with an address of each family, and who listens on it.
type instance struct {
	name  string // account, VLAN and number: what it says to who calls
	owner string
	ips   []netip.Addr
	nic   api.NetworkNIC
	on    *lab.Server
}

const port = "7"

// listen says an instance's name to whoever calls, until the test ends or its
// server does; path is the namespace.
func (s *servers) listen(path, name string) {
	s.T.Helper()
	var l net.Listener
	if err := lab.Inside(path, func() (err error) { l, err = net.Listen("tcp", ":"+port); return err }); err != nil {
		s.T.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			_, _ = fmt.Fprintf(c, "%s %s", name, host)
			_ = c.Close()
		}
	})
	s.T.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
}

// call gives what answers at an address: a name, and the address it saw the caller
// have. Without an answer in time both are empty.
func call(path string, to netip.Addr, limit time.Duration) (name, caller string, err error) {
	return dial(path, net.JoinHostPort(to.String(), port), limit)
}

// dial is call with a port.
func dial(path, to string, limit time.Duration) (name, caller string, err error) {
	var c net.Conn
	err = lab.Inside(path, func() (err error) {
		c, err = net.DialTimeout("tcp", to, limit)
		return err
	})
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EACCES) {
		return "", "", nil
	}
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(limit))
	b, err := io.ReadAll(c)
	name, caller, _ = strings.Cut(string(b), " ")
	return name, caller, err
}

func (i *instance) path() string { return i.on.Namespace(namespace(i.nic)) }

// launch waits until an instance is there, and makes it listen.
func (s *servers) launch(i *instance) {
	s.T.Helper()
	s.until(i.name+" has its addresses", func() error {
		if _, err := os.Stat(i.path()); err != nil {
			return err
		}
		return lab.Inside(i.path(), func() error {
			have, err := net.InterfaceAddrs()
			for _, want := range i.ips {
				if err == nil && !slices.ContainsFunc(have, func(a net.Addr) bool { return strings.HasPrefix(a.String(), want.String()+"/") }) {
					err = fmt.Errorf("no %v in %v", want, have)
				}
			}
			return err
		})
	})
	s.listen(i.path(), i.name)
}

// steps counts what the agent of a server has changed of its network.
func (s *servers) steps(m *lab.Server) int {
	s.T.Helper()
	b, err := os.ReadFile(m.Log())
	if err != nil {
		s.T.Fatal(err)
	}
	return strings.Count(string(b), `msg="network step"`) + strings.Count(string(b), "msg=router step=")
}

// gateway is the server that has an address on the external network.
func (s *servers) gateway(address string) *lab.Server {
	s.T.Helper()
	var nics []api.NetworkNIC
	s.read(&nics, "nic", "list", "--network", "external")
	for _, n := range nics {
		for _, m := range s.all {
			if m.Spec.UUID == n.Server && slices.ContainsFunc(n.Addresses, func(a api.NICAddress) bool { return a.IP == address }) {
				return m
			}
		}
	}
	s.T.Fatalf("no server has %s: %v", address, nics)
	return nil
}

// until tries until f succeeds.
func (s *servers) until(what string, f func() error) {
	s.T.Helper()
	ctx, cancel := context.WithTimeout(s.T.Context(), time.Minute)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			s.T.Fatalf("%s: not within a minute: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// pairs lets every instance call every address there is, all at once, and wants
// those of its own account to answer, and nobody else's: where both accounts have
// an address, its own.
func (s *servers) pairs(all []*instance) {
	s.T.Helper()
	addresses := map[netip.Addr]bool{}
	own := map[string]map[netip.Addr]string{alice: {}, bob: {}}
	for _, i := range all {
		for _, ip := range i.ips {
			addresses[ip] = true
			own[i.owner][ip] = i.name
		}
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	answered, silent := 0, 0
	for _, from := range all {
		for to := range addresses {
			if slices.Contains(from.ips, to) {
				continue
			}
			wg.Go(func() {
				want := own[from.owner][to]
				limit := 5 * time.Second
				if want == "" {
					limit = 1500 * time.Millisecond
				}
				got, caller, err := call(from.path(), to, limit)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil || got != want:
					s.T.Errorf("%s on %s calls %v: %q answers (%v), want %q", from.name, from.on.Spec.Name, to, got, err, want)
				case want == "":
					silent++
				case !slices.Contains(from.ips, netip.MustParseAddr(caller)):
					s.T.Errorf("%s calls %v, which sees %s", from.name, to, caller)
				default:
					answered++
				}
			})
		}
	}
	wg.Wait()
	s.T.Logf("%d pairs of instance and address answered, %d were silent, as they should", answered, silent)
	if answered == 0 || silent == 0 {
		s.T.Error("the test has not tried both")
	}
}
