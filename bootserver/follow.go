package bootserver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"nereid/bootserver/dhcp"
)

// followEvery is how often the admin interface is looked at.
const followEvery = time.Second

// deaf is why no machine is heard, and since when; empty when all is well.
type deaf struct {
	mu    sync.Mutex
	why   string
	since time.Time
}

// Alerts lists what an operator should look at, one sentence each.
func (s *Server) Alerts() []string {
	s.deaf.mu.Lock()
	defer s.deaf.mu.Unlock()
	if s.deaf.why == "" {
		return nil
	}
	return []string{fmt.Sprintf("No server can boot since %s: %s. The boot server goes on by itself once that is mended.",
		s.deaf.since.UTC().Format(time.RFC3339), s.deaf.why)}
}

// follow keeps the DHCP sockets on the admin interface until ctx ends: sockets are
// bound to an interface, not to its name, and hear nothing once it was removed and
// made again. TFTP and HTTP are bound to the address and need nothing.
func (s *Server) follow(ctx context.Context, conns []*dhcp.Conn) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			s.noteDeaf(s.rebind(ctx, conns), now)
		}
	}
}

// rebind binds the sockets again where that is needed. It is an error that says
// what keeps machines from being heard and answered.
func (s *Server) rebind(ctx context.Context, conns []*dhcp.Conn) error {
	ifi, err := net.InterfaceByName(s.Interface)
	if err != nil {
		return fmt.Errorf("the admin interface %s is gone (%w); make it again with %s", s.Interface, err, s.Address)
	}
	for _, c := range conns {
		again, err := c.Rebind(ctx, ifi.Index)
		if err != nil {
			return fmt.Errorf("DHCP cannot use the admin interface: %w", err)
		}
		if again {
			s.log().Info("bound to the admin interface again", "interface", s.Interface, "socket", c.Addr().String())
		}
	}
	addrs, err := ifi.Addrs()
	if err != nil {
		return fmt.Errorf("the addresses of the admin interface %s cannot be read: %w", s.Interface, err)
	}
	return unusable(*ifi, addrs, s.Address)
}

// unusable says why machines behind an interface cannot be answered, or nothing.
func unusable(ifi net.Interface, addrs []net.Addr, own netip.Prefix) error {
	has := slices.ContainsFunc(addrs, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(own.Addr().AsSlice())
	})
	switch {
	case ifi.Flags&net.FlagUp == 0:
		return fmt.Errorf("the admin interface %s is down; run: ip link set %s up", ifi.Name, ifi.Name)
	case !has:
		return fmt.Errorf("the admin interface %s has lost the address %s; run: ip addr add %s dev %s", ifi.Name, own.Addr(), own, ifi.Name)
	}
	return nil
}

// noteDeaf keeps the alert and logs when it begins, changes and ends.
func (s *Server) noteDeaf(err error, now time.Time) {
	s.deaf.mu.Lock()
	defer s.deaf.mu.Unlock()
	d := &s.deaf
	switch {
	case err == nil && d.why != "":
		s.log().Info("servers can boot again", "interface", s.Interface, "after", now.Sub(d.since).Round(time.Second).String())
		d.why = ""
	case err != nil && d.why != err.Error():
		if d.why == "" {
			d.since = now
		}
		d.why = err.Error()
		s.log().Error("no server can boot", "why", d.why)
	}
}
