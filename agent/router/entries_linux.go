package router

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// These ask the kernel for one entry (RTM_GETNEIGH without NLM_F_DUMP, Linux 5.0)
// in this thread's namespace. A VNI's bridge may have ten thousands.

// neighbour gives the MAC of a permanent neighbour, empty: there is none.
func neighbour(index int, a netip.Addr) (string, error) {
	f := unix.AF_INET
	if a.Is6() {
		f = unix.AF_INET6
	}
	n, err := getEntry(&netlink.Ndmsg{Family: uint8(f), Index: uint32(index)}, nl.NewRtAttr(netlink.NDA_DST, a.AsSlice()))
	if errors.Is(err, unix.ENODEV) { // the link is gone
		return "", nil
	}
	if err != nil || n == nil || n.State&netlink.NUD_PERMANENT == 0 {
		return "", err
	}
	return n.HardwareAddr.String(), nil
}

// staticEntry gives the port that a MAC's static forwarding entry leads to, on
// the bridge that port index is on; 0: there is none. A port that is on no bridge any more
// (the kernel says EINVAL of it), or is gone, has none: a VNI's bridge goes with its last NIC
// at any time after the links were listed.
func staticEntry(index int, mac string) (int, error) {
	m, err := net.ParseMAC(mac)
	if err != nil {
		return 0, err
	}
	n, err := getEntry(&netlink.Ndmsg{Family: unix.AF_BRIDGE, Index: uint32(index), Flags: netlink.NTF_MASTER}, nl.NewRtAttr(netlink.NDA_LLADDR, m))
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) {
		return 0, nil
	}
	if err != nil || n == nil || n.State&netlink.NUD_NOARP == 0 {
		return 0, err
	}
	return n.LinkIndex, nil
}

func getEntry(msg *netlink.Ndmsg, attr *nl.RtAttr) (*netlink.Neigh, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, 0)
	req.AddData(msg)
	req.AddData(attr)
	answers, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get neighbour: %w", err)
	}
	if len(answers) == 0 {
		return nil, nil
	}
	return netlink.NeighDeserialize(answers[0])
}

// attributes are where a port's settings are, by the kernel's number of each.
func (f *portFlags) attributes() map[int]*bool {
	return map[int]*bool{
		nl.IFLA_BRPORT_LEARNING: &f.Learning, nl.IFLA_BRPORT_UNICAST_FLOOD: &f.Flood, nl.IFLA_BRPORT_MCAST_FLOOD: &f.McastFlood,
		nl.IFLA_BRPORT_BCAST_FLOOD: &f.BcastFlood, nl.IFLA_BRPORT_NEIGH_SUPPRESS: &f.NeighSuppress, nl.IFLA_BRPORT_PROXYARP_WIFI: &f.ProxyARPWiFi,
	}
}

// bridgePorts gives the settings of all bridge ports of this thread's namespace,
// by index.
func bridgePorts() (map[int]portFlags, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_BRIDGE))
	answers, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return nil, fmt.Errorf("list bridge ports: %w", err)
	}
	ports := map[int]portFlags{}
	for _, a := range answers {
		if len(a) < unix.SizeofIfInfomsg {
			continue
		}
		attrs, err := nl.ParseRouteAttr(a[unix.SizeofIfInfomsg:])
		if err != nil {
			return nil, fmt.Errorf("list bridge ports: %w", err)
		}
		for _, attr := range attrs {
			if attr.Attr.Type != unix.IFLA_PROTINFO|unix.NLA_F_NESTED {
				continue
			}
			infos, err := nl.ParseRouteAttr(attr.Value)
			if err != nil {
				return nil, fmt.Errorf("list bridge ports: %w", err)
			}
			var f portFlags
			into := f.attributes()
			for _, i := range infos {
				if flag := into[int(i.Attr.Type)]; flag != nil {
					*flag = len(i.Value) > 0 && i.Value[0] != 0
				}
			}
			ports[int(binary.NativeEndian.Uint32(a[4:8]))] = f
		}
	}
	return ports, nil
}

// setPortFlags sets all of them at once, in this thread's namespace.
func setPortFlags(index int, f portFlags) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	for number, flag := range f.attributes() {
		value := []byte{0}
		if *flag {
			value[0] = 1
		}
		info.AddRtAttr(number, value)
	}
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func prefixOf(n *net.IPNet) netip.Prefix {
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}
	}
	if n.IP.To4() != nil && len(n.Mask) == net.IPv4len {
		a = a.Unmap()
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a, ones)
}

// viaOf is a route's next hop.
func viaOf(r netlink.Route) netip.Addr {
	ip := r.Gw
	if v, ok := r.Via.(*netlink.Via); ok {
		ip = v.Addr
		if a, ok := netip.AddrFromSlice(ip); ok {
			return a
		}
	}
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
