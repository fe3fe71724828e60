package firewall

import (
	"encoding/binary"
	"net/netip"
)

// Frames for tests, put together by hand.

var broadcast = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func ether(dst, src [6]byte, etherType uint16, payload ...[]byte) []byte {
	b := append(append([]byte{}, dst[:]...), src[:]...)
	b = binary.BigEndian.AppendUint16(b, etherType)
	for _, p := range payload {
		b = append(b, p...)
	}
	return b
}

// ipPacket makes a whole frame with an IP packet of either family.
func ipPacket(dstMAC, srcMAC [6]byte, src, dst netip.Addr, proto byte, payload []byte) []byte {
	if src.Is4() {
		h := make([]byte, 20)
		h[0], h[8], h[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
		copy(h[12:], src.AsSlice())
		copy(h[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(h[10:], ^checksum(0, h))
		fillChecksum(src, dst, proto, payload)
		return ether(dstMAC, srcMAC, 0x0800, h, payload)
	}
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, proto, 255
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	copy(h[8:], src.AsSlice())
	copy(h[24:], dst.AsSlice())
	fillChecksum(src, dst, proto, payload)
	return ether(dstMAC, srcMAC, 0x86dd, h, payload)
}

// checksum of RFC 1071, not yet inverted.
func checksum(sum uint32, b []byte) uint16 {
	for i := 0; i < len(b); i += 2 {
		if i+1 < len(b) {
			sum += uint32(b[i])<<8 | uint32(b[i+1])
		} else {
			sum += uint32(b[i]) << 8
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

func fillChecksum(src, dst netip.Addr, proto byte, payload []byte) {
	at, ok := map[byte]int{protoTCP: 16, protoUDP: 6, protoICMP: 2, protoICMP6: 2}[proto]
	if !ok || len(payload) < at+2 {
		return
	}
	var pseudo []byte
	if proto != protoICMP {
		pseudo = append(append(append(pseudo, src.AsSlice()...), dst.AsSlice()...), 0, proto, byte(len(payload)>>8), byte(len(payload)))
	}
	payload[at], payload[at+1] = 0, 0
	binary.BigEndian.PutUint16(payload[at:], ^checksum(uint32(checksum(0, pseudo)), payload))
}

func udp(src, dst uint16, data ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, src)
	b = binary.BigEndian.AppendUint16(b, dst)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(data)))
	return append(append(b, 0, 0), data...)
}

func tcp(src, dst uint16) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, src)
	binary.BigEndian.PutUint16(b[2:], dst)
	b[12], b[13] = 0x50, 2 // SYN
	return b
}

func arpPacket(dstMAC, srcMAC [6]byte, op byte, sha [6]byte, spa netip.Addr, tha [6]byte, tpa netip.Addr) []byte {
	return ether(dstMAC, srcMAC, 0x0806, []byte{0, 1, 8, 0, 6, 4, 0, op}, sha[:], spa.AsSlice(), tha[:], tpa.AsSlice())
}

// icmp6 is a message with 4 bytes of flags, then parts.
func icmp6(kind byte, flags uint32, parts ...[]byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{kind, 0, 0, 0}, flags)
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func option(kind byte, mac [6]byte) []byte { return append([]byte{kind, 1}, mac[:]...) }
