package firewall

import "fmt"

// expression is one nf_tables expression. Registers are numbered from 0, of 32 bits
// each: NFT_REG32_00 to NFT_REG32_15. What one rule put into a register is not seen
// by the next (the kernel refuses to load what the rule did not store).
type expression interface{ String() string }

type (
	// loadMeta loads what the kernel knows of the packet.
	loadMeta struct {
		key meta
		reg int
	}
	// loadConn loads what connection tracking knows. Addresses and ports are those
	// of the packet that opened the connection.
	loadConn struct {
		key conn
		reg int
	}
	// loadHeader loads bytes of a header.
	loadHeader struct {
		base   header
		offset int
		size   int
		reg    int
	}
	// mask keeps bits of a register.
	mask struct {
		reg  int
		bits []byte
	}
	// equal goes on when the register begins with value, or with not, when not so.
	equal struct {
		reg   int
		value []byte
		not   bool
	}
	// put loads a constant.
	put struct {
		reg   int
		value []byte
	}
	// contains goes on when the set has the key that starts in the register.
	contains struct {
		set string
		reg int
		not bool
	}
	// translate goes on with the map's data in register to; of a result, the number is
	// in the register after that.
	translate struct {
		set     string
		reg, to int
	}
	// decide does what the map's verdict says.
	decide struct {
		set string
		reg int
	}
	// count adds to a named counter.
	count struct{ name string }
	// storeMark sets the packet's own mark, storeConnMark its connection's, and
	// storeZone the connection tracking zone that it will be looked up in.
	storeMark     struct{ reg int }
	storeConnMark struct{ reg int }
	storeZone     struct{ reg int }
	// noTrack keeps the packet out of connection tracking.
	noTrack struct{}
	// limit goes on at most so often a second, after a burst of 5.
	limit struct{ perSecond uint64 }
	// logs writes a line to the kernel's log.
	logs struct{ prefix string }
	// note is a comment that nft(8) shows.
	note struct{ text string }
	// verdict ends the rule. chain is for jump and goto.
	verdict struct {
		kind  verdictKind
		chain string
	}
)

type meta uint8

const (
	iifname meta = iota
	oifname
	ibrname // the bridge that the input interface is a port of
	l4proto // transport protocol, past IPv6 extension headers; absent in a malformed packet
	nfproto
	mark
)

func (m meta) String() string {
	return [...]string{"iifname", "oifname", "ibrname", "l4proto", "nfproto", "mark"}[m]
}

type conn uint8

const (
	connState conn = iota
	connDirection
	connMark
	connProtocol
	connSource4
	connDestination4
	connSource6
	connDestination6
	connPort // destination port; of ICMP, type and code
)

func (c conn) String() string {
	return [...]string{"ct state", "ct direction", "ct mark", "ct protocol", "ct original ip saddr", "ct original ip daddr", "ct original ip6 saddr", "ct original ip6 daddr", "ct original proto-dst"}[c]
}

type header uint8

const (
	linkHeader header = iota
	networkHeader
	transportHeader
)

func (h header) String() string { return [...]string{"ll", "nh", "th"}[h] }

type verdictKind uint8

const (
	accept verdictKind = iota
	drop
	jump
	gotoChain
	returns
)

func (e loadMeta) String() string { return fmt.Sprintf("r%d = %s", e.reg, e.key) }
func (e loadConn) String() string { return fmt.Sprintf("r%d = %s", e.reg, e.key) }
func (e loadHeader) String() string {
	return fmt.Sprintf("r%d = @%s,%d,%d", e.reg, e.base, e.offset, e.size)
}
func (e mask) String() string { return fmt.Sprintf("r%d &= %x", e.reg, e.bits) }
func (e equal) String() string {
	return fmt.Sprintf("r%d %s %x", e.reg, map[bool]string{false: "==", true: "!="}[e.not], e.value)
}
func (e put) String() string { return fmt.Sprintf("r%d = %x", e.reg, e.value) }
func (e contains) String() string {
	return fmt.Sprintf("r%d %s @%s", e.reg, map[bool]string{false: "in", true: "not in"}[e.not], e.set)
}
func (e translate) String() string     { return fmt.Sprintf("r%d = @%s[r%d]", e.to, e.set, e.reg) }
func (e decide) String() string        { return fmt.Sprintf("r%d vmap @%s", e.reg, e.set) }
func (e count) String() string         { return "counter " + e.name }
func (e storeMark) String() string     { return fmt.Sprintf("mark = r%d", e.reg) }
func (e storeConnMark) String() string { return fmt.Sprintf("ct mark = r%d", e.reg) }
func (e storeZone) String() string     { return fmt.Sprintf("ct zone = r%d", e.reg) }
func (e noTrack) String() string       { return "notrack" }
func (e limit) String() string         { return fmt.Sprintf("limit rate %d/second", e.perSecond) }
func (e logs) String() string          { return fmt.Sprintf("log prefix %q", e.prefix) }
func (e note) String() string          { return fmt.Sprintf("comment %q", e.text) }
func (v verdict) String() string {
	word := [...]string{"accept", "drop", "jump", "goto", "return"}[v.kind]
	if v.chain != "" {
		word += " " + v.chain
	}
	return word
}

// Verdicts without a chain.
var (
	acceptIt = verdict{kind: accept}
	dropIt   = verdict{kind: drop}
	returnIt = verdict{kind: returns}
)

func jumpTo(chain string) verdict { return verdict{jump, chain} }
func goTo(chain string) verdict   { return verdict{gotoChain, chain} }
