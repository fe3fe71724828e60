package network

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Attributes that golang.org/x/sys does not name (linux/if_addr.h, linux/neighbour.h).
const (
	ifaProto    = 11 // IFA_PROTO
	ndaProtocol = 12 // NDA_PROTOCOL
)

// Places in the arrays IFLA_INET_CONF (linux/ip.h, IPV4_DEVCONF_*, which count
// from 1) and IFLA_INET6_CONF (linux/ipv6.h, DEVCONF_*).
const (
	confRPFilter    = 8
	confARPIgnore   = 19
	conf6AcceptRA   = 3
	conf6Disable    = 26
	inet6Conf       = 2 // IFLA_INET6_CONF
	addrGenModeNone = 1 // IN6_ADDR_GEN_MODE_NONE
)

// parseLink reads an RTM_NEWLINK. ok is false when it is none.
func parseLink(b []byte) (d dumped, ok bool) {
	if len(b) < unix.SizeofIfInfomsg {
		return d, false
	}
	flags := binary.NativeEndian.Uint32(b[8:])
	d.Index = int32(binary.NativeEndian.Uint32(b[4:]))
	d.Up = flags&unix.IFF_UP != 0
	d.Loopback = flags&unix.IFF_LOOPBACK != 0
	d.open4, d.open6 = true, false
	attributes(b[unix.SizeofIfInfomsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.IFLA_IFNAME:
			d.Name = cString(v)
		case unix.IFLA_ADDRESS:
			if len(v) == 6 {
				d.MAC = net.HardwareAddr(v).String()
			}
		case unix.IFLA_PERM_ADDRESS:
			if len(v) == 6 {
				d.PermMAC = net.HardwareAddr(v).String()
			}
		case unix.IFLA_MTU:
			d.MTU = int(get32(v))
		case unix.IFLA_MAX_MTU:
			d.MaxMTU = int(get32(v))
		case unix.IFLA_MASTER:
			d.master = int32(get32(v))
		case unix.IFLA_LINK:
			d.parent = int32(get32(v))
		case unix.IFLA_LINK_NETNSID:
			d.foreignParent = true
		case unix.IFLA_IFALIAS:
			d.Alias = cString(v)
		case unix.IFLA_CARRIER:
			d.Carrier = get8(v) == 1
		case unix.IFLA_STATS64:
			d.Stats = parseStats(v)
		case unix.IFLA_PROP_LIST:
			attributes(v, func(kind uint16, v []byte) {
				if kind == unix.IFLA_ALT_IFNAME {
					d.AltNames = append(d.AltNames, cString(v))
				}
			})
		case unix.IFLA_AF_SPEC:
			d.parseFamilies(v)
		case unix.IFLA_LINKINFO:
			d.parseInfo(v)
		}
	})
	d.Closed = !d.open4 && !d.open6
	return d, d.Name != ""
}

// parseStats reads a struct rtnl_link_stats64: packets, bytes, errors, dropped,
// each received and then sent.
func parseStats(v []byte) (s Stats) {
	if len(v) < 64 {
		return s
	}
	at := func(i int) uint64 { return binary.NativeEndian.Uint64(v[8*i:]) }
	return Stats{RxBytes: at(2), TxBytes: at(3), RxErrors: at(4), TxErrors: at(5), RxDropped: at(6), TxDropped: at(7)}
}

func (d *dumped) parseFamilies(v []byte) {
	attributes(v, func(family uint16, v []byte) {
		mode, conf := uint8(0), []byte(nil)
		attributes(v, func(kind uint16, v []byte) {
			switch {
			case family == unix.AF_INET && kind == unix.IFLA_INET_CONF, family == unix.AF_INET6 && kind == inet6Conf:
				conf = v
			case family == unix.AF_INET6 && kind == unix.IFLA_INET6_ADDR_GEN_MODE:
				mode = get8(v)
			}
		})
		at := func(i int) uint32 {
			if len(conf) < 4*(i+1) {
				return 0
			}
			return get32(conf[4*i:])
		}
		switch family {
		case unix.AF_INET:
			d.open4 = at(confARPIgnore-1) != 8 || at(confRPFilter-1) != 1
		case unix.AF_INET6:
			d.open6 = at(conf6Disable) != 1 && (mode != addrGenModeNone || at(conf6AcceptRA) != 0)
		}
	})
}

func (d *dumped) parseInfo(v []byte) {
	var data, slave []byte
	var master string
	attributes(v, func(kind uint16, v []byte) {
		switch kind {
		case nl.IFLA_INFO_KIND:
			d.Kind = cString(v)
		case nl.IFLA_INFO_DATA:
			data = v
		case nl.IFLA_INFO_SLAVE_KIND:
			master = cString(v)
		case nl.IFLA_INFO_SLAVE_DATA:
			slave = v
		}
	})
	d.parseData(data)
	attributes(slave, func(kind uint16, v []byte) {
		switch master {
		case "bridge":
			d.Flags.set(kind, get8(v) != 0)
		case "bond":
			switch kind {
			case nl.IFLA_BOND_SLAVE_PERM_HWADDR:
				if len(v) == 6 && d.PermMAC == "" {
					d.PermMAC = net.HardwareAddr(v).String()
				}
			case nl.IFLA_BOND_SLAVE_AD_ACTOR_OPER_PORT_STATE:
				d.Member.Actor = get8(v)
			case nl.IFLA_BOND_SLAVE_AD_PARTNER_OPER_PORT_STATE:
				if len(v) >= 2 {
					d.Member.Partner = uint8(binary.NativeEndian.Uint16(v))
				}
			}
		}
	})
}

func (d *dumped) parseData(data []byte) {
	d.Plain = d.Kind == "vxlan"
	rate := ""
	attributes(data, func(kind uint16, v []byte) {
		switch d.Kind {
		case "vlan":
			if kind == nl.IFLA_VLAN_ID && len(v) >= 2 {
				d.VLAN = int(binary.NativeEndian.Uint16(v))
			}
		case "vxlan":
			switch kind {
			case nl.IFLA_VXLAN_ID:
				d.VNI = get32(v)
			case nl.IFLA_VXLAN_LOCAL, nl.IFLA_VXLAN_LOCAL6:
				if ip := getIP(v); ip.IsValid() && !ip.IsUnspecified() {
					d.Local = ip
				}
			case nl.IFLA_VXLAN_LEARNING:
				d.Plain = d.Plain && get8(v) == 0
			case nl.IFLA_VXLAN_PORT:
				d.Plain = d.Plain && len(v) >= 2 && binary.BigEndian.Uint16(v) == vxlanUDP
			case nl.IFLA_VXLAN_GROUP, nl.IFLA_VXLAN_GROUP6:
				if ip := getIP(v); ip.IsValid() && !ip.IsUnspecified() {
					d.Plain = false
				}
			}
		case "bond":
			switch kind {
			case nl.IFLA_BOND_MODE:
				d.Mode = bondModes[get8(v)]
			case nl.IFLA_BOND_AD_LACP_RATE:
				rate = either(get8(v) == 1, "fast", "slow")
			}
		}
	})
	if d.Mode == modeLACP {
		d.Rate = rate
	}
}

// bondModes are the modes that are used here (linux/if_bonding.h).
var bondModes = map[uint8]string{1: modeActiveBackup, 4: modeLACP}

// set sets a flag by its attribute (linux/if_link.h, IFLA_BRPORT_*).
func (f *PortFlags) set(kind uint16, on bool) {
	for _, a := range f.attributes() {
		if a.kind == kind {
			*a.flag = on
		}
	}
}

// parsePortFlags reads what a bridge says of a port: none when the port left it.
func parsePortFlags(b []byte, there bool) *PortFlags {
	f := &PortFlags{}
	attributes(b[unix.SizeofIfInfomsg:], func(kind uint16, v []byte) {
		if kind == unix.IFLA_PROTINFO && there {
			attributes(v, func(kind uint16, v []byte) { f.set(kind, get8(v) != 0) })
		}
	})
	return f
}

type portFlag struct {
	kind uint16
	flag *bool
}

func (f *PortFlags) attributes() []portFlag {
	return []portFlag{
		{nl.IFLA_BRPORT_LEARNING, &f.Learning},
		{nl.IFLA_BRPORT_UNICAST_FLOOD, &f.Flood},
		{nl.IFLA_BRPORT_MCAST_FLOOD, &f.McastFlood},
		{nl.IFLA_BRPORT_BCAST_FLOOD, &f.BcastFlood},
		{nl.IFLA_BRPORT_NEIGH_SUPPRESS, &f.NeighSuppress},
		{nl.IFLA_BRPORT_PROXYARP_WIFI, &f.ProxyARPWiFi},
	}
}

// parseAddress reads an RTM_NEWADDR.
func parseAddress(b []byte) (index int32, a Addr, ok bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return 0, a, false
	}
	bits := int(b[1])
	index = int32(binary.NativeEndian.Uint32(b[4:]))
	var local, address netip.Addr
	attributes(b[unix.SizeofIfAddrmsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.IFA_LOCAL:
			local = getIP(v)
		case unix.IFA_ADDRESS:
			address = getIP(v)
		case ifaProto:
			a.Ours = get8(v) == Protocol
		}
	})
	if !local.IsValid() {
		local = address // IPv6, but for point-to-point links
	}
	a.Prefix = netip.PrefixFrom(local, bits)
	return index, a, a.Prefix.IsValid() && !local.IsLinkLocalUnicast()
}

// parseRoute reads an RTM_NEWROUTE; ok only for unicast routes of the main table
// over one link that do not come with an address or from a router.
func parseRoute(b []byte) (index int32, r Route, ok bool) {
	if len(b) < unix.SizeofRtMsg {
		return 0, r, false
	}
	family, bits, proto, kind := b[0], int(b[1]), b[5], b[7]
	table, flags := uint32(b[4]), binary.NativeEndian.Uint32(b[8:])
	var dst netip.Addr
	attributes(b[unix.SizeofRtMsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.RTA_DST:
			dst = getIP(v)
		case unix.RTA_GATEWAY:
			r.Via = getIP(v)
		case unix.RTA_OIF:
			index = int32(get32(v))
		case unix.RTA_PRIORITY:
			r.Metric = int(get32(v))
		case unix.RTA_TABLE:
			table = get32(v)
		}
	})
	if !dst.IsValid() {
		dst = netip.IPv4Unspecified()
		if family == unix.AF_INET6 {
			dst = netip.IPv6Unspecified()
		}
	}
	r.Dst, r.Proto = netip.PrefixFrom(dst, bits), int(proto)
	if family == unix.AF_INET6 && r.Metric == ip6Metric {
		r.Metric = 0
	}
	ok = table == unix.RT_TABLE_MAIN && kind == unix.RTN_UNICAST && index != 0 && r.Dst.IsValid() &&
		flags&unix.RTM_F_CLONED == 0 && !dst.IsLinkLocalUnicast() &&
		!slices.Contains([]uint8{unix.RTPROT_KERNEL, unix.RTPROT_RA, unix.RTPROT_REDIRECT}, proto)
	return index, r, ok
}

// ip6Metric is what the kernel makes of an IPv6 route without a metric
// (IP6_RT_PRIO_USER).
const ip6Metric = 1024

// neighbour is an RTM_NEWNEIGH or RTM_DELNEIGH.
type neighbour struct {
	family uint8
	dev    int32
	state  uint16
	mac    MAC
	hasMAC bool
	ip     netip.Addr
	master bool // a bridge's forwarding entry
	ours   bool
}

func parseNeighbour(b []byte) (n neighbour, ok bool) {
	const size = 12 // struct ndmsg
	if len(b) < size {
		return n, false
	}
	n.family = b[0]
	n.dev = int32(binary.NativeEndian.Uint32(b[4:]))
	n.state = binary.NativeEndian.Uint16(b[8:])
	attributes(b[size:], func(kind uint16, v []byte) {
		switch kind {
		case unix.NDA_DST:
			n.ip = getIP(v)
		case unix.NDA_LLADDR:
			if len(v) == 6 {
				n.mac, n.hasMAC = MAC(v), true
			}
		case unix.NDA_MASTER:
			n.master = true
		case ndaProtocol:
			n.ours = get8(v) == Protocol
		}
	})
	return n, true
}
