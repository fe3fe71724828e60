package bootserver

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"nereid/api"
	"nereid/bootserver/dhcp"
	"nereid/bootserver/tftp"
)

// ipxeDir is where Debian's ipxe package puts its programs.
const ipxeDir = "/usr/lib/ipxe"

// readIPXE reads the programs that are sent.
func readIPXE(dir string) (map[string][]byte, error) {
	if dir == "" {
		dir = ipxeDir
	}
	files := map[string][]byte{}
	for _, name := range []string{dhcp.FileBIOS, dhcp.FileUEFI, dhcp.FileUEFIHTTP} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("read iPXE, which machines get first: %w; install Debian's package ipxe or name the directory it is in", err)
		}
		files[name] = b
	}
	return files, nil
}

func ipxeNames(files map[string][]byte) []string {
	var names []string
	for n := range files {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// checkSource warns when TFTP blocks would come from another address than the one
// that was asked: transfers have sockets of their own, whose address the kernel
// chooses, and clients drop blocks from strangers (RFC 1350, section 4).
func (s *Server) checkSource() {
	peer := s.Address.Addr().Next()
	if !s.Address.Contains(peer) {
		peer = s.Address.Addr().Prev()
	}
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(peer, 9))) // sends nothing
	if err != nil {
		s.log().Warn("no route to the admin network", "network", s.Address.Masked().String(), "err", err)
		return
	}
	defer func() { _ = c.Close() }()
	if got := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(); got != s.Address.Addr() {
		s.log().Warn("TFTP will not work: make the boot server's address the first of its interface and its network's only route",
			"address", s.Address.Addr().String(), "sent_from", got.String())
	}
}

func (s *Server) tftpServer(ctx context.Context) *tftp.Server {
	return &tftp.Server{
		Files:  s.ipxe,
		Logger: s.log().With(slog.String("leg", "tftp")),
		Known:  s.leased,
		Shed:   func(beyond string, who netip.Addr) { s.shed("TFTP reads "+beyond, who) },
		Done: func(t tftp.Transfer) {
			id, ok := s.leases.get(t.Client.Addr())
			if !ok {
				return
			}
			detail := t.File
			if t.Err != nil {
				detail = fmt.Sprintf("%s, cut after %d of %d bytes: %v", t.File, t.Bytes, t.Size, t.Err)
			}
			s.record(ctx, id, api.BootEvent{Stage: api.StageTFTP, Detail: clip(detail), Bytes: t.Bytes, Seconds: t.Duration.Seconds()})
		},
		Refused: func(client netip.Addr, text string) {
			if id, ok := s.leases.get(client); ok {
				s.recordRefusal(ctx, id, "TFTP: "+text)
			}
		},
	}
}
