package svp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// be is the byte order of the protocol.
var be = binary.BigEndian

// Op is an operation.
type Op uint16

// The operations of version 1. BULK has no data format.
const (
	OpPing      Op = 0x01
	OpPong      Op = 0x02
	OpVL2Req    Op = 0x03
	OpVL2Ack    Op = 0x04
	OpVL3Req    Op = 0x05
	OpVL3Ack    Op = 0x06
	OpBulkReq   Op = 0x07
	OpBulkAck   Op = 0x08
	OpLogReq    Op = 0x09
	OpLogAck    Op = 0x0a
	OpLogRm     Op = 0x0b
	OpLogRmAck  Op = 0x0c
	OpShootdown Op = 0x0d

	// UnknownReply is set in the operation of an answer to one that is unknown.
	UnknownReply Op = 0x8000
)

// Status is the outcome of a request. It has 16 bits in VL2_ACK, 32 elsewhere.
type Status uint32

// The statuses.
const (
	StatusOK        Status = 0
	StatusFatal     Status = 1 // the connection is closed
	StatusNotFound  Status = 2
	StatusBadL3Type Status = 3
	StatusBadBulk   Status = 4
)

// Types of a VL3 request.
const (
	TypeIPv4 uint32 = 1
	TypeIPv6 uint32 = 2
)

// Types of a log record.
const (
	recordVL2 uint32 = 1
	recordVL3 uint32 = 2
)

// Sizes of a log record in bytes.
const (
	vl2RecordSize = 32
	vl3RecordSize = 44
)

// MAC is an Ethernet address.
type MAC [6]byte

// Message is one of the types below.
type Message interface {
	Op() Op
	payload(b []byte) []byte // appends it
}

type (
	// Ping asks whether the server is there.
	Ping struct{}
	// Pong answers Ping.
	Pong struct{}
	// VL2Req asks behind which underlay address a MAC is.
	VL2Req struct {
		MAC MAC
		VNI uint32
	}
	// VL2Ack answers VL2Req. Underlay is the VXLAN port too.
	VL2Ack struct {
		Status   Status
		Underlay netip.AddrPort
	}
	// VL3Req asks which MAC an address has, and where that is.
	VL3Req struct {
		IP   netip.Addr
		Type uint32
		VNI  uint32
	}
	// VL3Ack answers VL3Req.
	VL3Ack struct {
		Status   Status
		MAC      MAC
		Underlay netip.AddrPort
	}
	// BulkReq asks for a whole table.
	BulkReq struct{ Type uint32 }
	// BulkAck answers BulkReq.
	BulkAck struct {
		Status Status
		Type   uint32
		Data   []byte
	}
	// LogReq asks for the log of the node with an underlay address: a payload of
	// Max bytes at most.
	LogReq struct {
		Max      uint32
		Underlay netip.Addr
	}
	// LogAck answers LogReq.
	LogAck struct {
		Status  Status
		Records []Record
	}
	// LogRm removes records.
	LogRm struct{ IDs [][16]byte }
	// LogRmAck answers LogRm.
	LogRmAck struct{ Status Status }
	// Shootdown says that a MAC was not where it was said to be.
	Shootdown struct {
		MAC MAC
		VNI uint32
	}
	// Unknown is a message of an operation that has no type here.
	Unknown struct {
		Operation Op
		Payload   []byte
	}
)

// Record tells a node what changed: where a MAC is, or, with a valid IP, which MAC
// an address has.
type Record struct {
	ID   [16]byte
	VNI  uint32
	MAC  MAC
	IP   netip.Addr
	VLAN uint16 // with IP: of the frames inside, 0 for none
}

// Op is the operation, here and below.
func (Ping) Op() Op      { return OpPing }
func (Pong) Op() Op      { return OpPong }
func (VL2Req) Op() Op    { return OpVL2Req }
func (VL2Ack) Op() Op    { return OpVL2Ack }
func (VL3Req) Op() Op    { return OpVL3Req }
func (VL3Ack) Op() Op    { return OpVL3Ack }
func (BulkReq) Op() Op   { return OpBulkReq }
func (BulkAck) Op() Op   { return OpBulkAck }
func (LogReq) Op() Op    { return OpLogReq }
func (LogAck) Op() Op    { return OpLogAck }
func (LogRm) Op() Op     { return OpLogRm }
func (LogRmAck) Op() Op  { return OpLogRmAck }
func (Shootdown) Op() Op { return OpShootdown }
func (u Unknown) Op() Op { return u.Operation }

func (Ping) payload(b []byte) []byte { return b }
func (Pong) payload(b []byte) []byte { return b }

func (m VL2Req) payload(b []byte) []byte { return appendMACVNI(b, m.MAC, m.VNI) }

func (m VL2Ack) payload(b []byte) []byte {
	b = be.AppendUint16(b, uint16(m.Status))
	b = be.AppendUint16(b, m.Underlay.Port())
	return appendIP(b, m.Underlay.Addr())
}

func (m VL3Req) payload(b []byte) []byte {
	return be.AppendUint32(be.AppendUint32(appendIP(b, m.IP), m.Type), m.VNI)
}

func (m VL3Ack) payload(b []byte) []byte {
	b = append(be.AppendUint32(b, uint32(m.Status)), m.MAC[:]...)
	return appendIP(be.AppendUint16(b, m.Underlay.Port()), m.Underlay.Addr())
}

func (m BulkReq) payload(b []byte) []byte { return be.AppendUint32(b, m.Type) }

func (m BulkAck) payload(b []byte) []byte {
	return append(be.AppendUint32(be.AppendUint32(b, uint32(m.Status)), m.Type), m.Data...)
}

func (m LogReq) payload(b []byte) []byte { return appendIP(be.AppendUint32(b, m.Max), m.Underlay) }

func (m LogAck) payload(b []byte) []byte {
	b = be.AppendUint32(b, uint32(m.Status))
	for _, r := range m.Records {
		b = r.append(b)
	}
	return b
}

func (m LogRm) payload(b []byte) []byte {
	b = be.AppendUint32(b, uint32(len(m.IDs)))
	for _, id := range m.IDs {
		b = append(b, id[:]...)
	}
	return b
}

func (m LogRmAck) payload(b []byte) []byte { return be.AppendUint32(b, uint32(m.Status)) }

func (m Shootdown) payload(b []byte) []byte { return appendMACVNI(b, m.MAC, m.VNI) }

func (u Unknown) payload(b []byte) []byte { return append(b, u.Payload...) }

// size is that of the record in a log.
func (r Record) size() int {
	if r.IP.IsValid() {
		return vl3RecordSize
	}
	return vl2RecordSize
}

func (r Record) append(b []byte) []byte {
	if !r.IP.IsValid() {
		return appendMACVNI(append(be.AppendUint32(b, recordVL2), r.ID[:]...), r.MAC, r.VNI)
	}
	b = appendIP(append(be.AppendUint32(b, recordVL3), r.ID[:]...), r.IP)
	return be.AppendUint32(be.AppendUint16(append(b, 0, 0), r.VLAN), r.VNI)
}

func appendMACVNI(b []byte, mac MAC, vni uint32) []byte {
	return be.AppendUint32(append(append(b, mac[:]...), 0, 0), vni)
}

// appendIP adds an address as 16 bytes; no address is sixteen zeros.
func appendIP(b []byte, a netip.Addr) []byte {
	var ip [16]byte
	if a.IsValid() {
		ip = a.As16()
	}
	return append(b, ip[:]...)
}

// sizeOf is the size of an operation's payload, -1 when that varies.
func sizeOf(op Op) int {
	switch op {
	case OpPing, OpPong:
		return 0
	case OpBulkReq, OpLogRmAck:
		return 4
	case OpVL2Req, OpShootdown:
		return 12
	case OpVL2Ack, OpLogReq:
		return 20
	case OpVL3Req:
		return 24
	case OpVL3Ack:
		return 28
	}
	return -1
}

// parse takes a payload apart. Padding is not looked at. The message keeps nothing
// of p.
func parse(op Op, p []byte) (Message, error) {
	if want := sizeOf(op); want >= 0 && len(p) != want {
		return nil, fmt.Errorf("operation %#x with a payload of %d bytes: want %d", uint16(op), len(p), want)
	}
	switch op {
	case OpPing:
		return Ping{}, nil
	case OpPong:
		return Pong{}, nil
	case OpVL2Req:
		return VL2Req{MAC: MAC(p[:6]), VNI: be.Uint32(p[8:])}, nil
	case OpVL2Ack:
		return VL2Ack{Status: Status(be.Uint16(p)), Underlay: addrPort(p[4:20], be.Uint16(p[2:]))}, nil
	case OpVL3Req:
		return VL3Req{IP: addr(p[:16]), Type: be.Uint32(p[16:]), VNI: be.Uint32(p[20:])}, nil
	case OpVL3Ack:
		return VL3Ack{Status: Status(be.Uint32(p)), MAC: MAC(p[4:10]), Underlay: addrPort(p[12:28], be.Uint16(p[10:]))}, nil
	case OpBulkReq:
		return BulkReq{Type: be.Uint32(p)}, nil
	case OpBulkAck:
		if len(p) < 8 {
			return nil, fmt.Errorf("BULK_ACK with a payload of %d bytes: want 8 or more", len(p))
		}
		return BulkAck{Status: Status(be.Uint32(p)), Type: be.Uint32(p[4:]), Data: append([]byte(nil), p[8:]...)}, nil
	case OpLogReq:
		return LogReq{Max: be.Uint32(p), Underlay: addr(p[4:])}, nil
	case OpLogAck:
		return parseLogAck(p)
	case OpLogRm:
		return parseLogRm(p)
	case OpLogRmAck:
		return LogRmAck{Status: Status(be.Uint32(p))}, nil
	case OpShootdown:
		return Shootdown{MAC: MAC(p[:6]), VNI: be.Uint32(p[8:])}, nil
	}
	return Unknown{Operation: op, Payload: append([]byte(nil), p...)}, nil
}

func parseLogAck(p []byte) (Message, error) {
	if len(p) < 4 {
		return nil, fmt.Errorf("LOG_ACK with a payload of %d bytes: want 4 or more", len(p))
	}
	m := LogAck{Status: Status(be.Uint32(p))}
	for p = p[4:]; len(p) > 0; {
		switch {
		case len(p) >= vl2RecordSize && be.Uint32(p) == recordVL2:
			m.Records = append(m.Records, Record{ID: [16]byte(p[4:20]), MAC: MAC(p[20:26]), VNI: be.Uint32(p[28:])})
			p = p[vl2RecordSize:]
		case len(p) >= vl3RecordSize && be.Uint32(p) == recordVL3:
			m.Records = append(m.Records, Record{ID: [16]byte(p[4:20]), IP: addr(p[20:36]), VLAN: be.Uint16(p[38:]), VNI: be.Uint32(p[40:])})
			p = p[vl3RecordSize:]
		default:
			return nil, fmt.Errorf("LOG_ACK: record %d is cut or of an unknown type", len(m.Records)+1)
		}
	}
	return m, nil
}

func parseLogRm(p []byte) (Message, error) {
	if len(p) < 4 || uint64(len(p)) != 4+16*uint64(be.Uint32(p)) {
		return nil, fmt.Errorf("LOG_RM: a payload of %d bytes does not have as many ids as it says", len(p))
	}
	m := LogRm{}
	for p = p[4:]; len(p) > 0; p = p[16:] {
		m.IDs = append(m.IDs, [16]byte(p[:16]))
	}
	return m, nil
}

// addr is an address of 16 bytes; a mapped one is IPv4.
func addr(p []byte) netip.Addr { return netip.AddrFrom16([16]byte(p)).Unmap() }

func addrPort(p []byte, port uint16) netip.AddrPort { return netip.AddrPortFrom(addr(p), port) }
