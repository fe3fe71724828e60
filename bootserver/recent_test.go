package bootserver

import (
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"nereid/api"
	"nereid/bootserver/dhcp"
)

// acked has a machine get an address, of a server where one is named.
func (s *Server) acked(t *testing.T, mac, boot, server string, a netip.Addr) {
	s.answered(t.Context(), dhcp.Outcome{Request: dhcp.Request{Boot: api.BootRequest{MAC: mac}}, Reply: &dhcpv4.DHCPv4{},
		Answer: api.BootAnswer{BootID: boot, Server: server, Address: netip.PrefixFrom(a, 8)}})
}

// However many strangers get addresses, what a server's boot is recorded with, and
// what lets its TFTP and HTTP go before theirs, stays.
func TestStrangersPushNoServerOut(t *testing.T) {
	s := &Server{}
	server, first, next := netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("10.1.0.0"), netip.MustParseAddr("10.1.0.0")
	s.acked(t, "a server", "boot", "uuid", server)
	for range 3 * maxRecent {
		s.acked(t, next.String(), "invented", "", next)
		next = next.Next()
	}
	if id, ok := s.leases.get(server); !ok || id != "boot" {
		t.Errorf("the server's address is that of boot %q, %v", id, ok)
	}
	if id, ok := s.macs.get("a server"); !ok || id != "boot" {
		t.Errorf("the server's MAC is that of boot %q, %v", id, ok)
	}
	if s.leased(first) || !s.leased(next.Prev()) || len(s.leases.m) != maxRecent+1 {
		t.Errorf("%d addresses are remembered; the first is: %v, the last: %v", len(s.leases.m), s.leased(first), s.leased(next.Prev()))
	}
}

// A stranger that becomes a server is remembered once, with the servers.
func TestStrangerBecomesServer(t *testing.T) {
	var r recent[int, string]
	r.put(-1, "old", ofStranger)
	r.put(-1, "new", ofServer)
	for i := range 2 * maxRecent {
		r.put(i, "", ofStranger)
	}
	if v, ok := r.get(-1); !ok || v != "new" || len(r.m) != maxRecent+1 {
		t.Errorf("%q %v, %d are remembered", v, ok, len(r.m))
	}
	for i := range maxRecent {
		r.put(-2-i, "", ofServer)
	}
	if v, ok := r.get(-1); ok || len(r.m) != 2*maxRecent {
		t.Errorf("%q outlived %d newer servers; %d are remembered", v, maxRecent, len(r.m))
	}
}
