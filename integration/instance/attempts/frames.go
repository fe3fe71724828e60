package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Every frame carries a name, so that whoever gets it can say which one it was. Frames
// named begin and end are honest ones.
const tag = "nereid-attempt:"

// Of send: how often and how long it says that it has ended.
const (
	ends  = 10
	every = 100 * time.Millisecond
)

type wire struct {
	fd, index int
	mac       net.HardwareAddr
	ip        netip.Addr
}

// plug opens an interface for whole frames, whoever they are for.
func plug(name string) (w wire, err error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return w, err
	}
	w.index, w.mac = i.Index, i.HardwareAddr
	addrs, err := i.Addrs()
	if err != nil {
		return w, err
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			w.ip = p.Addr()
		}
	}
	all := uint16(unix.ETH_P_ALL)
	if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return w, err
	}
	mreq := unix.PacketMreq{Ifindex: int32(i.Index), Type: unix.PACKET_MR_PROMISC}
	return w, errors.Join(unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: all<<8 | all>>8, Ifindex: i.Index}),
		unix.SetsockoptPacketMreq(w.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &mreq))
}

// listen prints the name of each frame of send that comes in, once, until the one named
// end.
func listen(name string) error {
	w, err := plug(name)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	seen := map[string]bool{}
	buf := make([]byte, 65536)
	for !seen["end"] {
		n, from, err := unix.Recvfrom(w.fd, buf, 0)
		if err != nil {
			return err
		}
		if sa, ok := from.(*unix.SockaddrLinklayer); ok && sa.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		_, rest, is := bytes.Cut(buf[:n], []byte(tag))
		what, _, whole := bytes.Cut(rest, []byte(";"))
		if is && whole && !seen[string(what)] {
			seen[string(what)] = true
			fmt.Println("came\t" + string(what))
		}
	}
	return nil
}

// send sends honest frames to a zone, and between them such as no zone may send.
func send(name string, args []string) error {
	w, err := plug(name)
	if err != nil {
		return err
	}
	var macs [2]net.HardwareAddr
	var ips [2]netip.Addr
	for i := range macs {
		var err1, err2 error
		macs[i], err1 = net.ParseMAC(args[2*i])
		ips[i], err2 = netip.ParseAddr(args[2*i+1])
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
	}
	to, other := station{macs[0], ips[0]}, station{macs[1], ips[1]}
	me := station{w.mac, w.ip}
	link := func(what string) error { return w.put(udp4(me, to, 4000, 4000, what), to) }
	if err := link("begin"); err != nil {
		return err
	}
	broadcast := station{net.HardwareAddr{255, 255, 255, 255, 255, 255}, netip.MustParseAddr("255.255.255.255")}
	foreign := netip.MustParseAddr("192.0.2.77")
	gateway := netip.AddrFrom4([4]byte{to.ip.As4()[0], to.ip.As4()[1], to.ip.As4()[2], 1})
	frames := map[string][]byte{
		"another's MAC":                   udp4(station{other.mac, me.ip}, to, 4000, 4000, "another's MAC"),
		"an invented MAC":                 udp4(station{net.HardwareAddr{2, 9, 9, 9, 9, 9}, me.ip}, to, 4000, 4000, "an invented MAC"),
		"another's address":               udp4(station{me.mac, other.ip}, to, 4000, 4000, "another's address"),
		"another's MAC and address":       udp4(other, to, 4000, 4000, "another's MAC and address"),
		"the gateway's address":           udp4(station{me.mac, gateway}, to, 4000, 4000, "the gateway's address"),
		"an address of nobody":            udp4(station{me.mac, foreign}, to, 4000, 4000, "an address of nobody"),
		"the receiver's own address":      udp4(station{me.mac, to.ip}, to, 4000, 4000, "the receiver's own address"),
		"a DHCP server":                   udp4(me, to, 67, 68, "a DHCP server"),
		"ARP answer for another":          arp(2, me.mac, other.ip, to, "ARP answer for another"),
		"ARP answer for the gateway":      arp(2, me.mac, gateway, to, "ARP answer for the gateway"),
		"ARP question of another":         arp(1, other.mac, other.ip, to, "ARP question of another"),
		"ARP of all for another":          arp(2, me.mac, other.ip, broadcast, "ARP of all for another"),
		"another's IPv6":                  udp6(me.mac, to, "fd00::9", "another's IPv6"),
		"another's link-local address":    udp6(me.mac, to, "fe80::9", "another's link-local address"),
		"router advertisement":            icmp6(me.mac, to, 134, "router advertisement"),
		"redirect":                        icmp6(me.mac, to, 137, "redirect"),
		"a VLAN tag":                      tagged(0x8100, 3, udp4(me, to, 4000, 4000, "a VLAN tag")),
		"the VLAN tag of its network":     tagged(0x8100, 2, udp4(me, to, 4000, 4000, "the VLAN tag of its network")),
		"a service VLAN tag":              tagged(0x88a8, 3, udp4(me, to, 4000, 4000, "a service VLAN tag")),
		"a frame of spanning tree":        ether(me.mac, net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0}, 0x0027, note("a frame of spanning tree")),
		"LLDP":                            ether(me.mac, to.mac, 0x88cc, note("LLDP")),
		"an EtherType of nobody":          ether(me.mac, to.mac, 0x1234, note("an EtherType of nobody")),
		"a broadcast of another's":        udp4(other, broadcast, 4000, 4000, "a broadcast of another's"),
		"a packet too short for its kind": ether(me.mac, to.mac, 0x0800, note("a packet too short for its kind")),
	}
	for _, what := range sorted(frames) {
		for range 3 {
			if err := w.put(frames[what], to); err != nil {
				fmt.Printf("# %s: %v\n", what, err)
			}
		}
		fmt.Println("sent\t" + what)
	}
	return w.end(me, to)
}

// end says to a zone that nothing more comes.
func (w wire) end(me, to station) error {
	for range ends {
		if err := w.put(udp4(me, to, 4000, 4000, "end"), to); err != nil {
			return err
		}
		time.Sleep(every) // whoever listens may have missed it
	}
	return nil
}

// sendEnd sends a zone the last frame that it listens for.
func sendEnd(name, mac, ip string) error {
	w, err := plug(name)
	if err != nil {
		return err
	}
	m, err1 := net.ParseMAC(mac)
	a, err2 := netip.ParseAddr(ip)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	return w.end(station{w.mac, w.ip}, station{m, a})
}

type station struct {
	mac net.HardwareAddr
	ip  netip.Addr
}

func (w wire) put(frame []byte, to station) error {
	return unix.Sendto(w.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: w.index, Halen: 6, Addr: [8]byte(append(slices.Clone(to.mac), 0, 0))})
}

// note is a frame's name, in as many bytes as the shortest frame has.
func note(what string) []byte {
	return []byte(tag + what + ";" + strings.Repeat(" ", 64))
}

func ether(from, to net.HardwareAddr, kind uint16, body []byte) []byte {
	return slices.Concat(to, from, binary.BigEndian.AppendUint16(nil, kind), body)
}

// tagged puts a VLAN tag into a frame (IEEE 802.1Q).
func tagged(kind, vlan uint16, frame []byte) []byte {
	return slices.Concat(frame[:12], binary.BigEndian.AppendUint16(nil, kind), binary.BigEndian.AppendUint16(nil, vlan), frame[12:])
}

func sum(parts ...[]byte) uint16 {
	b := slices.Concat(parts...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	var n uint32
	for i := 0; i < len(b); i += 2 {
		n += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for n > 0xffff {
		n = n>>16 + n&0xffff
	}
	return ^uint16(n)
}

// udp4 is a UDP datagram without a checksum (RFC 768) in a packet of IPv4 (RFC 791).
func udp4(from, to station, sport, dport uint16, what string) []byte {
	text := note(what)
	udp := binary.BigEndian.AppendUint16(nil, sport)
	udp = binary.BigEndian.AppendUint16(udp, dport)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(text)))
	udp = append(udp, 0, 0)
	src, dst := from.ip.As4(), to.ip.As4()
	ip := []byte{0x45, 0, 0, 0, 0, 1, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	ip = slices.Concat(ip, src[:], dst[:])
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(udp)+len(text)))
	binary.BigEndian.PutUint16(ip[10:], sum(ip))
	return ether(from.mac, to.mac, unix.ETH_P_IP, slices.Concat(ip, udp, text))
}

// arp is a message of ARP (RFC 826).
func arp(op uint16, mac net.HardwareAddr, ip netip.Addr, to station, what string) []byte {
	src, dst := ip.As4(), to.ip.As4()
	body := slices.Concat([]byte{0, 1, 8, 0, 6, 4}, binary.BigEndian.AppendUint16(nil, op), mac, src[:], to.mac, dst[:])
	return ether(mac, to.mac, unix.ETH_P_ARP, append(body, note(what)...))
}

func ip6(mac net.HardwareAddr, to station, from string, next byte, body []byte) []byte {
	src, dst := netip.MustParseAddr(from).As16(), netip.MustParseAddr("fe80::1").As16()
	head := slices.Concat([]byte{0x60, 0, 0, 0}, binary.BigEndian.AppendUint16(nil, uint16(len(body))), []byte{next, 255}, src[:], dst[:])
	if next == unix.IPPROTO_ICMPV6 {
		binary.BigEndian.PutUint16(body[2:], sum(src[:], dst[:], []byte{0, 0, byte(len(body) >> 8), byte(len(body)), 0, 0, 0, next}, body))
	}
	return ether(mac, to.mac, unix.ETH_P_IPV6, append(head, body...))
}

func udp6(mac net.HardwareAddr, to station, from, what string) []byte {
	text := note(what)
	udp := slices.Concat([]byte{15, 160, 15, 160}, binary.BigEndian.AppendUint16(nil, uint16(8+len(text))), []byte{0, 1}, text)
	return ip6(mac, to, from, unix.IPPROTO_UDP, udp)
}

// icmp6 is a message of ICMPv6 (RFC 4861) from the zone's own link-local address.
func icmp6(mac net.HardwareAddr, to station, kind byte, what string) []byte {
	eui := netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
	return ip6(mac, to, eui.String(), unix.IPPROTO_ICMPV6, append([]byte{kind, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, note(what)...))
}
