package firewall

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// machine executes a ruleset as nf_tables does, so that tests can ask what is done
// with a packet: the program as it is sent to the kernel, not what was meant by it.
type machine struct {
	*ruleset
	counters map[string]int
	logged   []string
}

// packet is a frame at a hook.
type packet struct {
	iif, oif, bridge string
	frame            []byte // from the Ethernet header on
	ct               *connection
	untracked        bool
	mark             uint32
	zone             uint16
}

// connection is an entry of connection tracking, as one packet sees it.
type connection struct {
	state     uint32
	direction byte
	mark      uint32
	protocol  byte
	src, dst  netip.Addr
	port      [2]byte
}

// pass runs the base chains of one hook, lowest priority first.
func (m *machine) pass(t table, h hook, p *packet) bool {
	var bases []chain
	for _, c := range m.all() {
		if c.table == t && c.hook == h && (h != ingress || c.device == p.iif) {
			bases = append(bases, c)
		}
	}
	slices.SortFunc(bases, func(a, b chain) int { return cmp.Compare(a.priority, b.priority) })
	for _, c := range bases {
		if m.run(c, p, 0) == drop {
			return false
		}
	}
	return true
}

// run executes a chain; returns means that it ended without a verdict.
func (m *machine) run(c chain, p *packet, depth int) verdictKind {
	if depth > 16 { // NFT_JUMP_STACK_SIZE
		panic("chains call each other too deeply")
	}
	for _, r := range c.rules {
		v, matched := m.rule(r, p)
		if !matched {
			continue
		}
		switch v.kind {
		case accept, drop, returns:
			return v.kind
		case jump:
			if k := m.run(m.chain(v.chain), p, depth+1); k != returns {
				return k
			}
		case gotoChain:
			return m.run(m.chain(v.chain), p, depth)
		}
	}
	return returns
}

func (m *machine) chain(name string) chain {
	all := m.all()
	i := slices.IndexFunc(all, func(c chain) bool { return c.name == name })
	if i < 0 {
		panic("no chain " + name)
	}
	return all[i]
}

// rule executes one rule; false: it ended without a verdict.
func (m *machine) rule(r rule, p *packet) (verdict, bool) {
	var regs [64]byte
	var stored [16]bool
	store := func(reg int, b []byte) {
		padded := make([]byte, (len(b)+3)&^3)
		copy(padded, b)
		copy(regs[4*reg:], padded)
		for i := range len(padded) / 4 {
			stored[reg+i] = true
		}
	}
	load := func(reg, size int) []byte {
		for i := range (size + 3) / 4 {
			if !stored[reg+i] {
				panic(fmt.Sprintf("r%d is loaded and was not stored: %v", reg+i, r))
			}
		}
		return regs[4*reg : 4*reg+size]
	}
	for _, e := range r {
		switch e := e.(type) {
		case note:
		case loadMeta, loadConn, loadHeader:
			b, reg, ok := p.load(e)
			if !ok {
				return verdict{}, false
			}
			store(reg, b)
		case mask:
			b := load(e.reg, len(e.bits))
			for i := range b {
				b[i] &= e.bits[i]
			}
		case equal:
			if bytes.Equal(load(e.reg, len(e.value)), e.value) == e.not {
				return verdict{}, false
			}
		case put:
			store(e.reg, e.value)
		case contains:
			if _, found := m.lookup(e.set, e.reg, load); found == e.not {
				return verdict{}, false
			}
		case translate:
			data, found := m.lookup(e.set, e.reg, load)
			if !found {
				return verdict{}, false
			}
			store(e.to, []byte(data))
		case decide:
			data, found := m.lookup(e.set, e.reg, load)
			if !found {
				return verdict{}, false
			}
			word, to, _ := strings.Cut(data, " ")
			return verdict{map[string]verdictKind{"accept": accept, "drop": drop, "return": returns, "goto": gotoChain, "jump": jump}[word], to}, true
		case count:
			m.counters[e.name]++
		case storeMark:
			p.mark = binary.NativeEndian.Uint32(load(e.reg, 4))
		case storeConnMark:
			if p.ct != nil {
				p.ct.mark = binary.NativeEndian.Uint32(load(e.reg, 4))
			}
		case storeZone:
			p.zone = binary.NativeEndian.Uint16(load(e.reg, 2))
		case noTrack:
			p.untracked = true
		case limit:
		case logs:
			m.logged = append(m.logged, e.prefix)
		case verdict:
			return e, true
		default:
			panic(fmt.Sprintf("expression %T", e))
		}
	}
	return verdict{}, false
}

func (m *machine) lookup(name string, reg int, load func(reg, size int) []byte) (string, bool) {
	s, known := m.set(name)
	if !known {
		panic("no set " + name)
	}
	k := string(load(reg, s.keySize()))
	if !s.interval {
		e, found := m.elements[name][k]
		return e.data, found
	}
	for first, e := range m.elements[name] {
		if first <= k && k <= e.end {
			return e.data, true
		}
	}
	return "", false
}

// load is what the kernel loads from a packet.
func (p *packet) load(e expression) (b []byte, reg int, ok bool) {
	switch e := e.(type) {
	case loadMeta:
		switch e.key {
		case iifname:
			return encodeName(p.iif), e.reg, true
		case oifname:
			return encodeName(p.oif), e.reg, true
		case ibrname:
			return encodeName(p.bridge), e.reg, true
		case mark:
			return encodeNumber(p.mark), e.reg, true
		case nfproto:
			return []byte{map[uint16]byte{0x0800: 2, 0x86dd: 10}[p.etherType()]}, e.reg, true
		case l4proto:
			proto, _, ok := p.transport()
			return []byte{proto}, e.reg, ok
		}
	case loadConn:
		b, ok := p.conn(e.key)
		return b, e.reg, ok
	case loadHeader:
		base := map[header]int{linkHeader: 0, networkHeader: 14}[e.base]
		if e.base == transportHeader {
			if _, base, ok = p.transport(); !ok {
				return nil, 0, false
			}
		}
		from := base + e.offset
		if from+e.size > len(p.frame) {
			return nil, 0, false
		}
		return p.frame[from : from+e.size], e.reg, true
	}
	return nil, 0, false
}

func (p *packet) conn(k conn) ([]byte, bool) {
	if k == connState && p.ct == nil {
		return encodeNumber(map[bool]uint32{true: stateUntracked, false: stateInvalid}[p.untracked]), true
	}
	if p.ct == nil {
		return nil, false
	}
	switch k {
	case connState:
		return encodeNumber(p.ct.state), true
	case connDirection:
		return []byte{p.ct.direction}, true
	case connMark:
		return encodeNumber(p.ct.mark), true
	case connProtocol:
		return []byte{p.ct.protocol}, true
	case connSource4, connSource6:
		return p.ct.src.AsSlice(), true
	case connDestination4, connDestination6:
		return p.ct.dst.AsSlice(), true
	case connPort:
		return p.ct.port[:], true
	}
	return nil, false
}

func (p *packet) etherType() uint16 { return binary.BigEndian.Uint16(p.frame[12:]) }

// transport finds the transport header as nft_set_pktinfo_ipv4 and ..._ipv6 do,
// of extension headers only those of hop-by-hop options.
func (p *packet) transport() (proto byte, offset int, ok bool) {
	n := p.frame[14:]
	switch p.etherType() {
	case 0x0800:
		if len(n) < 20 || n[0]>>4 != 4 || int(n[0]&15)*4 < 20 {
			return 0, 0, false
		}
		return n[9], 14 + int(n[0]&15)*4, true
	case 0x86dd:
		if len(n) < 40 || n[0]>>4 != 6 {
			return 0, 0, false
		}
		proto, at := n[6], 40
		for proto == 0 {
			if len(n) < at+8 {
				return 0, 0, false
			}
			proto, at = n[at], at+8+8*int(n[at+1])
		}
		return proto, 14 + at, true
	}
	return 0, 0, false
}
