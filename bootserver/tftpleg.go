package bootserver

import (
	"context"
	"fmt"
	"log/slog"
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

func (s *Server) tftpServer(ctx context.Context) *tftp.Server {
	return &tftp.Server{
		Files:  s.ipxe,
		Logger: s.log().With(slog.String("leg", "tftp")),
		Known: func(a netip.Addr) bool {
			_, ok := s.leases.get(a)
			return ok
		},
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
