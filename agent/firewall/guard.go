package firewall

// Names of sets, chains and counters of the anti-spoofing part.
const (
	setMAC           = "mac" // what a port may send from
	setIP4           = "ip4"
	setNet4          = "net4"
	setIP6           = "ip6"
	setNet6          = "net6"
	setFreeMAC       = "free_mac" // ports with a flag of api.SpoofFlags
	setFreeIP        = "free_ip"
	setFreeDHCP      = "free_dhcp"
	setFreeEtherType = "free_ethertype"
	setUnspecified   = "from_unspecified" // ICMPv6 types that :: may send

	countMAC       = "mac"
	countIPv4      = "ipv4"
	countARP       = "arp"
	countIPv6      = "ipv6"
	countND        = "nd"
	countDHCP      = "dhcp"
	countRA        = "ra"
	countEtherType = "ethertype"
	countClosed    = "closed"
)

// Numbers of protocols that programs look for (IANA).
const (
	protoICMP  = 1
	protoTCP   = 6
	protoUDP   = 17
	protoESP   = 50
	protoAH    = 51
	protoICMP6 = 58

	ndRouterSolicitation    = 133
	ndRouterAdvertisement   = 134
	ndNeighborSolicitation  = 135
	ndNeighborAdvertisement = 136
	ndRedirect              = 137
)

// guardPriority is before whatever else is at the hook.
const guardPriority = -300

func guardSets() []set {
	names := func(n string) set { return set{netdevTable, n, []field{ifname}, noField, false} }
	return []set{
		{netdevTable, setMAC, []field{ifname, etherAddr}, noField, false},
		{netdevTable, setIP4, []field{ifname, ipv4Addr}, noField, false},
		{netdevTable, setNet4, []field{ifname, ipv4Addr}, noField, true},
		{netdevTable, setIP6, []field{ifname, ipv6Addr}, noField, false},
		{netdevTable, setNet6, []field{ifname, ipv6Addr}, noField, true},
		names(setFreeMAC), names(setFreeIP), names(setFreeDHCP), names(setFreeEtherType),
		{netdevTable, setUnspecified, []field{icmp6Type}, noField, false},
	}
}

func guardCounters() []counterName {
	var cs []counterName
	for _, n := range []string{countMAC, countIPv4, countARP, countIPv6, countND, countDHCP, countRA, countEtherType, countClosed} {
		cs = append(cs, counterName{netdevTable, n})
	}
	return cs
}

// from holds for packets of ports in set.
func from(set string) []expression {
	return []expression{loadMeta{iifname, 0}, contains{set: set, reg: 0}}
}

// notFrom holds for packets of ports not in set.
func notFrom(set string) []expression {
	return []expression{loadMeta{iifname, 0}, contains{set, 0, true}}
}

// owns holds when (input interface, header bytes) is in set.
func owns(set string, base header, offset, size int) []expression {
	return []expression{loadMeta{iifname, 0}, loadHeader{base, offset, size, 4}, contains{set: set, reg: 0}}
}

// bytesAre holds when a header has these bytes there.
func bytesAre(base header, offset int, value ...byte) []expression {
	return []expression{loadHeader{base, offset, len(value), 8}, equal{reg: 8, value: value}}
}

// transports holds for packets of one transport protocol.
func transports(proto byte) []expression {
	return []expression{loadMeta{l4proto, 8}, equal{reg: 8, value: []byte{proto}}}
}

// dropAs counts and drops.
func dropAs(counter string) []expression { return []expression{count{counter}, dropIt} }

// when joins conditions and an end to a rule.
func when(parts ...[]expression) rule {
	var r rule
	for _, p := range parts {
		r = append(r, p...)
	}
	return r
}

func then(e ...expression) []expression { return e }

// guardChains is the program that judges what comes from ports. Where an address
// must be among a port's own, the rules let pass what is known and end with a
// drop, so that a header too short to be read is dropped too.
func guardChains() []chain {
	c := func(name string, rules ...rule) chain { return chain{table: netdevTable, name: name, rules: rules} }
	return []chain{
		c("guard",
			when(notFrom(setFreeMAC), then(loadHeader{linkHeader, 6, 6, 4}, contains{setMAC, 0, true}), dropAs(countMAC)),
			when(etherType(0x08, 0x00), then(goTo("guard_ip4"))),
			when(etherType(0x08, 0x06), then(goTo("guard_arp"))),
			when(etherType(0x86, 0xdd), then(goTo("guard_ip6"))),
			// A VLAN tag makes another EtherType of the frame, even when the kernel has
			// taken it off: nft_payload.c puts it back for loads from the link header.
			when(notFrom(setFreeEtherType), dropAs(countEtherType)),
		),
		c("guard_ip4",
			when(transports(protoUDP), bytesAre(transportHeader, 0, 0, 67), notFrom(setFreeDHCP), dropAs(countDHCP)),
			when(from(setFreeIP), then(returnIt)),
			when(owns(setIP4, networkHeader, 12, 4), then(returnIt)),
			when(owns(setNet4, networkHeader, 12, 4), then(returnIt)),
			// A DHCP client without an address (RFC 2131, section 4.1).
			when(bytesAre(networkHeader, 12, 0, 0, 0, 0), transports(protoUDP), bytesAre(transportHeader, 0, 0, 68, 0, 67), then(returnIt)),
			when(dropAs(countIPv4)),
		),
		// Ethernet and IPv4 only, addresses of 6 and 4 bytes (RFC 826).
		c("guard_arp",
			when(bytesAre(networkHeader, 0, 0, 1, 8, 0, 6, 4), then(goTo("guard_arp_mac"))),
			when(dropAs(countARP)),
		),
		c("guard_arp_mac",
			when(from(setFreeMAC), then(goTo("guard_arp_ip"))),
			when(owns(setMAC, networkHeader, 8, 6), then(goTo("guard_arp_ip"))),
			when(dropAs(countARP)),
		),
		c("guard_arp_ip",
			when(from(setFreeIP), then(returnIt)),
			when(owns(setIP4, networkHeader, 14, 4), then(returnIt)),
			when(owns(setNet4, networkHeader, 14, 4), then(returnIt)),
			when(bytesAre(networkHeader, 14, 0, 0, 0, 0), then(returnIt)), // a probe (RFC 5227)
			when(dropAs(countARP)),
		),
		c("guard_ip6",
			when(transports(protoUDP), bytesAre(transportHeader, 0, 547>>8, 547&0xff), notFrom(setFreeDHCP), dropAs(countDHCP)),
			when(transports(protoICMP6), bytesAre(transportHeader, 0, ndRouterAdvertisement), notFrom(setFreeDHCP), dropAs(countRA)),
			when(transports(protoICMP6), bytesAre(transportHeader, 0, ndRedirect), notFrom(setFreeDHCP), dropAs(countRA)),
			when(from(setFreeIP), then(goTo("guard_nd"))),
			when(owns(setIP6, networkHeader, 8, 16), then(goTo("guard_nd"))),
			when(owns(setNet6, networkHeader, 8, 16), then(goTo("guard_nd"))),
			when(bytesAre(networkHeader, 8, make([]byte, 16)...), transports(protoICMP6), then(loadHeader{transportHeader, 0, 1, 8}, contains{set: setUnspecified, reg: 8}, goTo("guard_nd"))),
			when(dropAs(countIPv6)),
		),
		c("guard_nd",
			when(transports(protoICMP6), bytesAre(transportHeader, 0, ndNeighborSolicitation), then(goTo("guard_ns"))),
			when(transports(protoICMP6), bytesAre(transportHeader, 0, ndNeighborAdvertisement), then(goTo("guard_na"))),
			when(transports(protoICMP6), bytesAre(transportHeader, 0, ndRouterSolicitation), then(goTo("guard_rs"))),
			// Whose transport protocol cannot be found may hide any of the above.
			when(then(loadMeta{l4proto, 8}, returnIt)),
			when(dropAs(countIPv6)),
		),
		// Duplicate address detection is for one's own addresses (RFC 4862, section 5.4).
		c("guard_ns",
			when(from(setFreeIP), then(goTo("guard_ns_option"))),
			when(bytesAre(networkHeader, 8, make([]byte, 16)...), then(goTo("guard_ns_dad"))),
			when(then(goTo("guard_ns_option"))),
		),
		c("guard_ns_dad",
			when(owns(setIP6, transportHeader, 8, 16), then(goTo("guard_ns_option"))),
			when(owns(setNet6, transportHeader, 8, 16), then(goTo("guard_ns_option"))),
			when(dropAs(countND)),
		),
		c("guard_ns_option", append(optionRules(24, 1),
			// A nonce (RFC 7527) in place of the address.
			when(payloadIs(32), bytesAre(transportHeader, 24, 14, 1), then(returnIt)),
			when(dropAs(countND)))...),
		c("guard_na",
			when(from(setFreeIP), then(goTo("guard_na_option"))),
			when(owns(setIP6, transportHeader, 8, 16), then(goTo("guard_na_option"))),
			when(owns(setNet6, transportHeader, 8, 16), then(goTo("guard_na_option"))),
			when(dropAs(countND)),
		),
		c("guard_na_option", append(optionRules(24, 2), when(dropAs(countND)))...),
		c("guard_rs", append(optionRules(8, 1), when(dropAs(countND)))...),
	}
}

// payloadIs holds for an IPv6 packet of size bytes after its header, which are
// ICMPv6 without any extension header.
func payloadIs(size int) []expression {
	return bytesAre(networkHeader, 4, byte(size>>8), byte(size), protoICMP6)
}

// optionRules let pass neighbour discovery without an option, and with one option:
// the link-layer address of the port, of type option, at offset. nf_tables cannot
// walk a list of options; a message with more of them is not let pass, as no
// system sends such.
func optionRules(offset, option int) []rule {
	return []rule{
		when(from(setFreeMAC), then(returnIt)),
		when(payloadIs(offset), then(returnIt)),
		when(payloadIs(offset+8), bytesAre(transportHeader, offset, byte(option), 1), owns(setMAC, transportHeader, offset+2, 6), then(returnIt)),
	}
}

// etherType holds for frames of one EtherType.
func etherType(hi, lo byte) []expression { return bytesAre(linkHeader, 12, hi, lo) }

// chain is a port's base chain. Most of what comes is TCP, of which nothing
// but the sender is judged; from the port's own MAC and its first addresses (the last
// is link-local) it passes by comparisons, which cost a third of a lookup. Where
// protocol is, is TCP's number in whatever the EtherType behind the MAC says it is.
func (p *portInput) chain() chain {
	own := func(protocol, source int, address []byte, etherType ...byte) rule {
		return when(bytesAre(networkHeader, protocol, protoTCP), bytesAre(networkHeader, source, address...),
			bytesAre(linkHeader, 6, append(p.mac[:], etherType...)...), then(acceptIt))
	}
	c := guardChain(p.name)
	rest := c.rules
	c.rules = nil
	if p.closed {
		c.rules = []rule{when(dropAs(countClosed))}
		return c
	}
	for _, a := range p.addrs[:min(len(p.addrs)-1, maxDirect)] {
		r := own(6, 8, a.AsSlice(), 0x86, 0xdd)
		if a.Is4() {
			r = own(9, 12, a.AsSlice(), 0x08, 0x00)
		}
		c.rules = append(c.rules, r)
	}
	c.rules = append(c.rules, rest...)
	return c
}

// guardChain is the base chain of a port of which nothing is known here: the guard's
// sets know it.
func guardChain(device string) chain {
	return chain{table: netdevTable, name: "port_" + device, hook: ingress, priority: guardPriority, device: device,
		rules: []rule{when(then(jumpTo("guard")))}}
}

// guardElements fills the guard's sets with what is of no port.
func guardElements(es map[string]elements) {
	for _, t := range []byte{131, 132, ndRouterSolicitation, ndNeighborSolicitation, 143} { // MLD: RFC 3590, RFC 3810
		es[setUnspecified][string([]byte{t})] = element{}
	}
}

// guarded says by which elements the guard knows a port. Of one that is closed it knows
// nothing, and lets nothing pass.
func (p *portInput) guarded(put func(set, key string, e element)) {
	if p.closed {
		return
	}
	name := encodeName(p.name)
	add := func(set string, on bool) {
		if on {
			put(set, string(name), element{})
		}
	}
	add(setFreeMAC, p.flags.AllowMACSpoofing)
	add(setFreeIP, p.flags.AllowIPSpoofing)
	add(setFreeDHCP, p.flags.AllowDHCPSpoofing)
	add(setFreeEtherType, p.flags.AllowRestrictedTraffic)
	put(setMAC, key(name, p.mac[:]), element{})
	for _, a := range p.addrs {
		set := setIP6
		if a.Is4() {
			set = setIP4
		}
		put(set, key(name, a.AsSlice()), element{})
	}
	for _, n := range p.nets {
		set := setNet6
		if n.Addr().Is4() {
			set = setNet4
		}
		put(set, key(name, n.Addr().AsSlice()), element{end: key(name, lastAddr(n).AsSlice())})
	}
}
