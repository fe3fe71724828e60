package router

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// kernelGround is the running system.
type kernelGround struct{ host, dir string }

func (g kernelGround) spacePath(p path) string {
	k := kernel{host: g.host, dir: g.dir}
	if k.dir == "" {
		k.dir = defaultDir
	}
	return filepath.Join(k.dir, p.space)
}

// Use implements ground.
func (g kernelGround) Use(_ context.Context, p path, via netip.Addr) error {
	return inside(g.spacePath(p), func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		l, err := h.LinkByName(p.link)
		if err != nil {
			return err
		}
		return h.RouteReplace(route(l.Attrs().Index, anywhere(via.Is6()), mainTable, hop{via, p.link}))
	})
}

// pings is a raw ICMP socket in a router's namespace.
type pings struct {
	conn  *icmp.PacketConn
	six   bool
	id    int
	buf   []byte
	reply icmp.Type
}

// Ping implements ground.
func (g kernelGround) Ping(p path) (pinger, error) {
	s := &pings{six: p.from.Is6(), id: 0x6e72, buf: make([]byte, 1500), reply: ipv4.ICMPTypeEchoReply}
	network := "ip4:icmp"
	if s.six {
		network, s.reply = "ip6:ipv6-icmp", ipv6.ICMPTypeEchoReply
	}
	err := inside(g.spacePath(p), func() (err error) { s.conn, err = icmp.ListenPacket(network, p.from.String()); return err })
	if err != nil {
		return nil, err
	}
	if s.six {
		var f ipv6.ICMPFilter
		f.SetAll(true)
		f.Accept(ipv6.ICMPTypeEchoReply)
		err = s.conn.IPv6PacketConn().SetICMPFilter(&f)
	}
	if err != nil {
		s.conn.Close()
		return nil, err
	}
	return s, nil
}

// Ask implements pinger.
func (s *pings) Ask(to netip.Addr, seq uint16) error {
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: s.id, Seq: int(seq)}}
	if s.six {
		m.Type = ipv6.ICMPTypeEchoRequest
	}
	b, err := m.Marshal(nil) // the kernel makes the checksum of ICMPv6
	if err != nil {
		return err
	}
	_, err = s.conn.WriteTo(b, &net.IPAddr{IP: to.AsSlice()})
	return err
}

// Answer implements pinger.
func (s *pings) Answer() (netip.Addr, error) {
	number := 1
	if s.six {
		number = 58
	}
	for {
		n, from, err := s.conn.ReadFrom(s.buf)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("receive: %w", err)
		}
		m, err := icmp.ParseMessage(number, s.buf[:n])
		if err != nil || m.Type != s.reply {
			continue
		}
		echo, ok := m.Body.(*icmp.Echo)
		if !ok || echo.ID != s.id {
			continue
		}
		if ip, ok := from.(*net.IPAddr); ok {
			a, _ := netip.AddrFromSlice(ip.IP)
			return a.Unmap(), nil
		}
	}
}

// Close implements pinger.
func (s *pings) Close() error { return s.conn.Close() }
