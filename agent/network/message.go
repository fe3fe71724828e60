package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
)

// Netlink messages: a header of 16 bytes, a fixed part, attributes; all aligned to
// four bytes, in the machine's byte order (netlink(7)).

const messageHeader = 16

type header struct {
	kind, flags uint16
	seq         uint32
}

func align(n int) int { return (n + 3) &^ 3 }

// beginMessage appends a header; endMessage, with where it began, sets its length.
func beginMessage(b []byte, kind, flags uint16, seq uint32) []byte {
	b = append(b, 0, 0, 0, 0)
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	return append(b, 0, 0, 0, 0)
}

func endMessage(b []byte, start int) {
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start))
}

// addAttribute appends an attribute.
func addAttribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func add32(b []byte, kind uint16, v uint32) []byte {
	b = binary.NativeEndian.AppendUint16(b, 8)
	b = binary.NativeEndian.AppendUint16(b, kind)
	return binary.NativeEndian.AppendUint32(b, v)
}

func addIP(b []byte, kind uint16, ip netip.Addr) []byte {
	if ip.Is4() {
		a := ip.As4()
		return addAttribute(b, kind, a[:])
	}
	a := ip.As16()
	return addAttribute(b, kind, a[:])
}

var errShort = errors.New("a message of the kernel is cut short")

// messages calls each for every message of a datagram, until one gives an error.
func messages(b []byte, each func(header, []byte) error) error {
	for len(b) >= messageHeader {
		n := int(binary.NativeEndian.Uint32(b))
		if n < messageHeader || n > len(b) {
			return errShort
		}
		h := header{binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:]), binary.NativeEndian.Uint32(b[8:])}
		if err := each(h, b[messageHeader:n]); err != nil {
			return err
		}
		b = b[min(align(n), len(b)):]
	}
	return nil
}

// nested is the flag of attributes that hold others (NLA_F_NESTED), which not all
// senders set; netOrder is NLA_F_NET_BYTEORDER.
const nested, netOrder = 1 << 15, 1 << 14

// attributes calls each for every attribute, without the flags of its kind. What
// does not parse ends it.
func attributes(b []byte, each func(kind uint16, value []byte)) {
	for len(b) >= 4 {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return
		}
		each(binary.NativeEndian.Uint16(b[2:])&^(nested|netOrder), b[4:n])
		b = b[min(align(n), len(b)):]
	}
}

func get32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

func get8(b []byte) uint8 {
	if len(b) < 1 {
		return 0
	}
	return b[0]
}

func getIP(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b) // invalid when neither 4 nor 16 bytes
	return a
}

func cString(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}
