package dhcp

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Listen opens a broadcast socket on port of an interface; port 0 means any. The
// socket is bound to the interface and not to an address, because machines
// without an address are heard only that way. An empty name means every
// interface. bootService marks the socket of port 4011.
func Listen(ctx context.Context, ifname string, port int, bootService bool) (*Conn, error) {
	udp, index, err := bind(ctx, ifname, port)
	if err != nil {
		return nil, err
	}
	return &Conn{ifname: ifname, bootService: bootService, addr: udp.LocalAddr().(*net.UDPAddr).AddrPort(), udp: udp, index: index}, nil
}

// receiveBuffer holds about a thousand messages, as the kernel counts.
const receiveBuffer = 1 << 20

// bind opens a socket and gives the number of the interface it is bound to.
func bind(ctx context.Context, ifname string, port int) (*net.UDPConn, int, error) {
	index := 0
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		var opErr error
		err := rc.Control(func(fd uintptr) {
			if opErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1); opErr != nil {
				return
			}
			// Room for a burst; without the right to it the socket has what it has.
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
			if ifname == "" {
				return
			}
			if opErr = unix.BindToDevice(int(fd), ifname); opErr == nil {
				index, opErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
			}
		})
		if err == nil {
			err = opErr
		}
		return err
	}}
	pc, err := lc.ListenPacket(ctx, "udp4", net.JoinHostPort("0.0.0.0", strconv.Itoa(port)))
	if err != nil {
		return nil, 0, fmt.Errorf("listen on UDP port %d of interface %q: %w", port, ifname, err)
	}
	return pc.(*net.UDPConn), index, nil
}
