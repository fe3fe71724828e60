package pathmtu

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// raw is a raw ICMP socket.
type raw struct {
	conn    net.PacketConn
	to      *net.IPAddr
	id      int
	request icmp.Type
	reply   icmp.Type
	number  int // of the protocol, for parsing
	header  int // bytes before the payload: IP and ICMP
	buf     []byte
}

func open(ctx context.Context, from, to netip.Addr) (socket, error) {
	r := &raw{to: &net.IPAddr{IP: to.AsSlice(), Zone: to.Zone()}, id: rand.IntN(1 << 16), buf: make([]byte, most),
		request: ipv4.ICMPTypeEcho, reply: ipv4.ICMPTypeEchoReply, number: 1, header: 20 + 8}
	network, level, option, probe := "ip4:icmp", unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE
	if to.Is6() {
		r.request, r.reply, r.number, r.header = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, 58, 40+8
		network, level, option, probe = "ip6:ipv6-icmp", unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE
	}
	// Not to be fragmented, whatever the kernel believes of the path (ip(7)).
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, probe) }); cerr != nil {
			return cerr
		}
		return err
	}}
	var err error
	r.conn, err = config.ListenPacket(ctx, network, from.String())
	return r, err
}

func (r *raw) send(size int, seq uint16) error {
	m := icmp.Message{Type: r.request, Body: &icmp.Echo{ID: r.id, Seq: int(seq), Data: make([]byte, size-r.header)}}
	b, err := m.Marshal(nil) // the kernel makes the checksum of ICMPv6
	if err != nil {
		return err
	}
	_, err = r.conn.WriteTo(b, r.to)
	if errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.ENOBUFS) {
		return nil
	}
	return err
}

func (r *raw) receive(until time.Time) (uint16, error) {
	if err := r.conn.SetReadDeadline(until); err != nil {
		return 0, err
	}
	for {
		n, from, err := r.conn.ReadFrom(r.buf)
		if err != nil {
			return 0, err
		}
		if ip, ok := from.(*net.IPAddr); !ok || !ip.IP.Equal(r.to.IP) {
			continue
		}
		m, err := icmp.ParseMessage(r.number, r.buf[:n])
		if err != nil || m.Type != r.reply {
			continue
		}
		if echo, ok := m.Body.(*icmp.Echo); ok && echo.ID == r.id {
			return uint16(echo.Seq), nil
		}
	}
}

func (r *raw) Close() error { return r.conn.Close() }
