package firewall

import (
	"encoding/binary"
	"strings"

	"golang.org/x/sys/unix"
)

// Of linux/netfilter/nf_tables.h, where golang.org/x/sys/unix has none.
const (
	setConcat       = 0x80 // NFT_SET_CONCAT
	setDescConcat   = 2    // NFTA_SET_DESC_CONCAT
	objectCounter   = 1    // NFT_OBJECT_COUNTER
	metaBridgeInput = 0x11 // NFT_META_BRI_IIFNAME
	destroyChain    = 27   // NFT_MSG_DESTROYCHAIN, Linux 6.3
	netdevIngress   = 0    // NF_NETDEV_INGRESS
	firstRegister   = 8    // NFT_REG32_00
	verdictRegister = 0    // NFT_REG_VERDICT
	dataVerdict     = 0xffffff00
	netfilterDrop   = 0 // NF_DROP
	netfilterAccept = 1
)

// number of a data type in nft(8), which prints elements by it; the kernel keeps it
// only. A key of several fields with ranges is an integer for nft.
func (f field) datatype() uint32 {
	return [...]uint32{0, 41, 9, 7, 8, 12, 13, 29, 19, 19<<6 | 19, 4, dataVerdict}[f]
}

func (s set) keyType() uint32 {
	if s.interval && len(s.key) > 1 {
		return 4
	}
	var t uint32
	for _, f := range s.key {
		t = t<<6 | f.datatype()
	}
	return t
}

// encode is the body of NFT_MSG_NEWSET.
func (s set) encode(id uint32) attributes {
	var flags uint32
	if s.interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	if s.data != noField {
		flags |= unix.NFT_SET_MAP
	}
	concat := len(s.key) > 1 && !s.interval
	if concat {
		flags |= setConcat
	}
	a := attributes(nil).
		text(unix.NFTA_SET_TABLE, tableName).
		text(unix.NFTA_SET_NAME, s.name).
		u32(unix.NFTA_SET_FLAGS, flags).
		u32(unix.NFTA_SET_KEY_TYPE, s.keyType()).
		u32(unix.NFTA_SET_KEY_LEN, uint32(s.keySize())).
		u32(unix.NFTA_SET_ID, id)
	if s.data != noField {
		a = a.u32(unix.NFTA_SET_DATA_TYPE, s.data.datatype()).u32(unix.NFTA_SET_DATA_LEN, uint32(s.data.size()))
	}
	if concat {
		a = a.nest(unix.NFTA_SET_DESC, func(a attributes) attributes {
			return a.nest(setDescConcat, func(a attributes) attributes {
				for _, f := range s.key {
					a = a.nest(unix.NFTA_LIST_ELEM, func(a attributes) attributes {
						return a.u32(1, uint32(f.size())) // NFTA_SET_FIELD_LEN
					})
				}
				return a
			})
		})
	}
	// NFTNL_UDATA_SET_KEYBYTEORDER, for nft(8): 1 host, 2 network.
	order := uint32(2)
	if len(s.key) == 1 && (s.key[0] == ifname || s.key[0] == number) {
		order = 1
	}
	return a.raw(unix.NFTA_SET_USERDATA, append([]byte{0, 4}, binary.NativeEndian.AppendUint32(nil, order)...)...)
}

// kernelElement is an element as the kernel has it: a range is two, its first key
// and, flagged as an end, the first one after it.
type kernelElement struct {
	key  string
	data string
	end  bool
}

// expand makes kernel elements; ends is false when the range goes to the last key.
func (s set) expand(k string, e element) []kernelElement {
	list := []kernelElement{{key: k, data: e.data}}
	if s.interval {
		if after, ok := successor(e.end); ok {
			list = append(list, kernelElement{key: after, end: true})
		}
	}
	return list
}

// successor is the next key of the same size.
func successor(k string) (string, bool) {
	b := []byte(k)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i]++; b[i] != 0 {
			return string(b), true
		}
	}
	return "", false
}

func predecessor(k string) string {
	b := []byte(k)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i]--; b[i] != 0xff {
			break
		}
	}
	return string(b)
}

// encodeElement is one of the nested attributes of NFTA_SET_ELEM_LIST_ELEMENTS.
func (s set) encodeElement(a attributes, e kernelElement) attributes {
	return a.nest(unix.NFTA_LIST_ELEM, func(a attributes) attributes {
		if e.end {
			a = a.u32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
		}
		a = a.nest(unix.NFTA_SET_ELEM_KEY, func(a attributes) attributes {
			return a.raw(unix.NFTA_DATA_VALUE, []byte(e.key)...)
		})
		switch {
		case s.data == noField || e.end:
		case s.data == outcome:
			a = a.nest(unix.NFTA_SET_ELEM_DATA, func(a attributes) attributes { return encodeVerdict(a, parseVerdict(e.data)) })
		default:
			a = a.nest(unix.NFTA_SET_ELEM_DATA, func(a attributes) attributes {
				return a.raw(unix.NFTA_DATA_VALUE, []byte(e.data)...)
			})
		}
		return a
	})
}

// parseVerdict reads what verdict.String wrote.
func parseVerdict(text string) verdict {
	word, chain, _ := strings.Cut(text, " ")
	for k := accept; k <= returns; k++ {
		if (verdict{kind: k}).String() == word {
			return verdict{k, chain}
		}
	}
	return dropIt
}

func encodeVerdict(a attributes, v verdict) attributes {
	return a.nest(unix.NFTA_DATA_VERDICT, func(a attributes) attributes {
		code := [...]int32{netfilterAccept, netfilterDrop, unix.NFT_JUMP, unix.NFT_GOTO, unix.NFT_RETURN}[v.kind]
		a = a.u32(unix.NFTA_VERDICT_CODE, uint32(code))
		if v.chain != "" {
			a = a.text(unix.NFTA_VERDICT_CHAIN, v.chain)
		}
		return a
	})
}

// encode is the body of NFT_MSG_NEWRULE.
func (r rule) encode(chain string) attributes {
	var comment []byte // struct nftnl_udata of type NFTNL_UDATA_RULE_COMMENT, 0
	a := attributes(nil).text(unix.NFTA_RULE_TABLE, tableName).text(unix.NFTA_RULE_CHAIN, chain).
		nest(unix.NFTA_RULE_EXPRESSIONS, func(a attributes) attributes {
			for _, e := range r {
				if n, ok := e.(note); ok {
					comment = append([]byte{0, byte(len(n.text) + 1)}, append([]byte(n.text), 0)...)
					continue
				}
				a = a.nest(unix.NFTA_LIST_ELEM, func(a attributes) attributes {
					name, data := encodeExpression(e)
					return a.text(unix.NFTA_EXPR_NAME, name).
						nest(unix.NFTA_EXPR_DATA, func(a attributes) attributes { return append(a, data...) })
				})
			}
			return a
		})
	if comment != nil {
		a = a.raw(unix.NFTA_RULE_USERDATA, comment...)
	}
	return a
}

func register(reg int) uint32 { return uint32(firstRegister + reg) }

func value(a attributes, kind uint16, b []byte) attributes {
	return a.nest(kind, func(a attributes) attributes { return a.raw(unix.NFTA_DATA_VALUE, b...) })
}

// encodeExpression gives an expression's name in the kernel, and its attributes.
func encodeExpression(e expression) (name string, a attributes) {
	switch e := e.(type) {
	case loadMeta:
		k := [...]uint32{unix.NFT_META_IIFNAME, unix.NFT_META_OIFNAME, metaBridgeInput, unix.NFT_META_L4PROTO, unix.NFT_META_NFPROTO, unix.NFT_META_MARK}[e.key]
		return "meta", a.u32(unix.NFTA_META_KEY, k).u32(unix.NFTA_META_DREG, register(e.reg))
	case loadConn:
		return "ct", encodeConn(e)
	case loadHeader:
		base := [...]uint32{unix.NFT_PAYLOAD_LL_HEADER, unix.NFT_PAYLOAD_NETWORK_HEADER, unix.NFT_PAYLOAD_TRANSPORT_HEADER}[e.base]
		return "payload", a.u32(unix.NFTA_PAYLOAD_DREG, register(e.reg)).u32(unix.NFTA_PAYLOAD_BASE, base).
			u32(unix.NFTA_PAYLOAD_OFFSET, uint32(e.offset)).u32(unix.NFTA_PAYLOAD_LEN, uint32(e.size))
	case mask:
		a = a.u32(unix.NFTA_BITWISE_SREG, register(e.reg)).u32(unix.NFTA_BITWISE_DREG, register(e.reg)).u32(unix.NFTA_BITWISE_LEN, uint32(len(e.bits)))
		return "bitwise", value(value(a, unix.NFTA_BITWISE_MASK, e.bits), unix.NFTA_BITWISE_XOR, make([]byte, len(e.bits)))
	case equal:
		op := uint32(unix.NFT_CMP_EQ)
		if e.not {
			op = unix.NFT_CMP_NEQ
		}
		return "cmp", value(a.u32(unix.NFTA_CMP_SREG, register(e.reg)).u32(unix.NFTA_CMP_OP, op), unix.NFTA_CMP_DATA, e.value)
	case put:
		return "immediate", value(a.u32(unix.NFTA_IMMEDIATE_DREG, register(e.reg)), unix.NFTA_IMMEDIATE_DATA, e.value)
	case verdict:
		a = a.u32(unix.NFTA_IMMEDIATE_DREG, verdictRegister)
		return "immediate", a.nest(unix.NFTA_IMMEDIATE_DATA, func(a attributes) attributes { return encodeVerdict(a, e) })
	case contains:
		a = a.text(unix.NFTA_LOOKUP_SET, e.set).u32(unix.NFTA_LOOKUP_SREG, register(e.reg))
		if e.not {
			a = a.u32(unix.NFTA_LOOKUP_FLAGS, unix.NFT_LOOKUP_F_INV)
		}
		return "lookup", a
	case translate:
		return "lookup", a.text(unix.NFTA_LOOKUP_SET, e.set).u32(unix.NFTA_LOOKUP_SREG, register(e.reg)).u32(unix.NFTA_LOOKUP_DREG, register(e.to))
	case decide:
		return "lookup", a.text(unix.NFTA_LOOKUP_SET, e.set).u32(unix.NFTA_LOOKUP_SREG, register(e.reg)).u32(unix.NFTA_LOOKUP_DREG, verdictRegister)
	case count:
		return "objref", a.u32(unix.NFTA_OBJREF_IMM_TYPE, objectCounter).text(unix.NFTA_OBJREF_IMM_NAME, e.name)
	case storeMark:
		return "meta", a.u32(unix.NFTA_META_KEY, unix.NFT_META_MARK).u32(unix.NFTA_META_SREG, register(e.reg))
	case storeConnMark:
		return "ct", a.u32(unix.NFTA_CT_KEY, unix.NFT_CT_MARK).u32(unix.NFTA_CT_SREG, register(e.reg))
	case storeZone:
		return "ct", a.u32(unix.NFTA_CT_KEY, unix.NFT_CT_ZONE).u32(unix.NFTA_CT_SREG, register(e.reg))
	case noTrack:
		return "notrack", a
	case limit:
		return "limit", a.u64(unix.NFTA_LIMIT_RATE, e.perSecond).u64(unix.NFTA_LIMIT_UNIT, 1).u32(unix.NFTA_LIMIT_BURST, 5).u32(unix.NFTA_LIMIT_TYPE, unix.NFT_LIMIT_PKTS)
	case logs:
		return "log", a.text(unix.NFTA_LOG_PREFIX, e.prefix)
	}
	return "", nil
}

// encodeConn has a direction where the value is one of the two that a connection
// has. Addresses are asked for by family: NFT_CT_SRC would be that of the table.
func encodeConn(e loadConn) (a attributes) {
	k := [...]uint32{unix.NFT_CT_STATE, unix.NFT_CT_DIRECTION, unix.NFT_CT_MARK, unix.NFT_CT_PROTOCOL, unix.NFT_CT_SRC_IP, unix.NFT_CT_DST_IP, unix.NFT_CT_SRC_IP6, unix.NFT_CT_DST_IP6, unix.NFT_CT_PROTO_DST}[e.key]
	a = a.u32(unix.NFTA_CT_KEY, k).u32(unix.NFTA_CT_DREG, register(e.reg))
	switch e.key {
	case connSource4, connDestination4, connSource6, connDestination6, connPort:
		a = a.raw(unix.NFTA_CT_DIRECTION, original)
	}
	return a
}
