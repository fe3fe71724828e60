package bootserver

import "net/netip"

// Addrs are the sockets' addresses, for tests that let the kernel choose ports.
func (s *Server) Addrs() (dhcp, bootService, tftp, http netip.AddrPort) {
	return s.dhcpAddr[0], s.dhcpAddr[1], s.tftpAddr, s.httpAddr
}

// RefusedScript and ConfigArchive are tested as what machines get.
var (
	RefusedScript = refusedScript
	ConfigArchive = configArchive
)
