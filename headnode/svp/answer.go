package svp

import (
	"context"
	"net/netip"
)

// Lookup is the map the answers come from. Its methods are called by many
// goroutines at once. An error means that the map cannot be read now, not that
// something is not in it.
type Lookup interface {
	// VL2 finds the underlay address that a MAC of a VNI is behind.
	VL2(ctx context.Context, vni uint32, mac MAC) (underlay netip.AddrPort, found bool, err error)
	// VL3 finds the MAC of an address of a VNI, and where that is. An IPv4 address
	// is not mapped.
	VL3(ctx context.Context, vni uint32, ip netip.Addr) (mac MAC, underlay netip.AddrPort, found bool, err error)
	// Log lists the oldest records for the node with an underlay address, at most
	// limit. That a node asks makes it one that records are kept for.
	Log(ctx context.Context, underlay netip.Addr, limit int) ([]Record, error)
	// LogRemove removes records; unknown ids are no error.
	LogRemove(ctx context.Context, ids [][16]byte) error
}

// answer is what is sent for a message (nil: nothing), and whether the connection is
// to be closed then.
func (s *Server) answer(ctx context.Context, f Frame) (reply Message, last bool, err error) {
	// Requests have odd numbers.
	if f.Version != Version && f.Op != OpPing || f.Message == nil || f.Op > OpShootdown || f.Op%2 == 0 {
		s.counters.unknown.Add(1)
		return unknown(f.Op), true, nil
	}
	s.counters.requests[f.Op].Add(1)
	switch m := f.Message.(type) {
	case Ping:
		return Pong{}, false, nil
	case VL2Req:
		to, found, err := s.Lookup.VL2(ctx, m.VNI, m.MAC)
		st := s.status(found, err)
		if st != StatusOK {
			to = netip.AddrPort{}
		}
		return VL2Ack{Status: st, Underlay: to}, st == StatusFatal, err
	case VL3Req:
		if m.Type != TypeIPv4 && m.Type != TypeIPv6 {
			return VL3Ack{Status: StatusBadL3Type}, false, nil
		}
		mac, to, found, err := s.Lookup.VL3(ctx, m.VNI, m.IP)
		st := s.status(found, err)
		if st != StatusOK {
			return VL3Ack{Status: st}, st == StatusFatal, err
		}
		return VL3Ack{Status: st, MAC: mac, Underlay: to}, false, nil
	case BulkReq:
		return BulkAck{Status: StatusBadBulk, Type: m.Type}, false, nil
	case LogReq:
		return s.records(ctx, m)
	case LogRm:
		if err := s.Lookup.LogRemove(ctx, m.IDs); err != nil {
			return LogRmAck{Status: StatusFatal}, true, err
		}
		return LogRmAck{}, false, nil
	}
	return nil, false, nil // Shootdown
}

// unknown is the answer to what is not understood.
func unknown(op Op) Message {
	return Unknown{Operation: op | UnknownReply, Payload: be.AppendUint32(nil, uint32(StatusFatal))}
}

// status is that of a look-up.
func (s *Server) status(found bool, err error) Status {
	switch {
	case err != nil:
		return StatusFatal
	case !found:
		s.counters.notFound.Add(1)
		return StatusNotFound
	}
	return StatusOK
}

// records answers a request for a log with as many as it has room for.
func (s *Server) records(ctx context.Context, m LogReq) (Message, bool, error) {
	if !s.allowed(m.Underlay) {
		s.counters.notFound.Add(1)
		return LogAck{Status: StatusNotFound}, false, nil
	}
	room := int(min(m.Max, MaxPayload)) - 4
	records, err := s.Lookup.Log(ctx, m.Underlay, max(0, room/vl2RecordSize))
	if err != nil {
		return LogAck{Status: StatusFatal}, true, err
	}
	return LogAck{Records: fit(records, room)}, false, nil
}

// fit takes the records from the first on that fit into room bytes. One with an
// IPv6 address would make the client abort (see doc.go); it is left out.
func fit(records []Record, room int) []Record {
	var out []Record
	for _, r := range records {
		if r.IP.IsValid() && !r.IP.Is4() {
			continue
		}
		if room -= r.size(); room < 0 {
			break
		}
		out = append(out, r)
	}
	return out
}
