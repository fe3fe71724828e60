package bootserver

import (
	"context"
	"log/slog"
	"net/netip"

	"nereid/api"
	"nereid/bootserver/dhcp"
)

// URL is the boot server's HTTP address, without a slash at its end.
func (s *Server) URL() string {
	host := s.Address.Addr()
	switch p := s.Ports.HTTP; {
	case p == 0 || p == 80:
		return "http://" + host.String()
	case p < 0: // known once the socket is open
		return "http://" + s.httpAddr.String()
	default:
		return "http://" + netip.AddrPortFrom(host, uint16(p)).String()
	}
}

func (s *Server) dhcpSettings() dhcp.Settings {
	return dhcp.Settings{Address: s.Address, Clients: s.clients(), URL: s.URL()}
}

func (s *Server) clients() string {
	if s.Clients == "" {
		return "pxe"
	}
	return s.Clients
}

func (s *Server) dhcpServer() *dhcp.Server {
	d := &dhcp.Server{Settings: s.dhcpSettings(), Decider: s.Booter, Answered: s.answered, Known: s.Known,
		Logger: s.log().With(slog.String("leg", "dhcp"))}
	if s.Shed != nil {
		d.Shed = func(mac string) { s.Shed("DHCP messages beyond what can be answered, which were dropped unread", mac) }
	}
	return d
}

// answered remembers whose address it is, for TFTP, and records refusals with the
// boot the machine was last seen in.
func (s *Server) answered(ctx context.Context, out dhcp.Outcome) {
	a, mac := out.Answer, out.Request.Boot.MAC
	id := a.BootID
	if id == "" {
		id, _ = s.macs.get(mac)
	}
	if out.Refused != "" {
		s.recordRefusal(ctx, id, "DHCP "+out.Request.Type.String()+": "+out.Refused)
		return
	}
	if a.BootID != "" && a.Address.IsValid() && out.Reply != nil {
		whose := ofStranger
		if a.Server != "" {
			whose = ofServer
		}
		s.leases.put(a.Address.Addr(), a.BootID, whose)
		s.macs.put(mac, a.BootID, whose)
	}
}

// Resume takes up boots that another process began to serve: what their machines
// fetch next is recorded with them. Call it before Run.
func (s *Server) Resume(boots []api.Boot) {
	for _, b := range boots {
		whose := ofStranger
		if s.Known != nil && s.Known(b.MAC) {
			whose = ofServer
		}
		s.macs.put(b.MAC, b.ID, whose)
		if addr, err := netip.ParseAddr(b.Address); err == nil {
			s.leases.put(addr, b.ID, whose)
		}
	}
}
