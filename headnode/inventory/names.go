package inventory

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"

	"nereid/api"
)

var (
	uuidRE  = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	labelRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

// ParseUUID lower-cases a UUID and checks its form.
func ParseUUID(s string) (string, bool) {
	s = strings.ToLower(s)
	return s, uuidRE.MatchString(s)
}

// SwapUUID gives a UUID with its first three fields in the other byte order.
// SMBIOS 2.6 stores them little-endian (section 7.2.1), and firmware puts them
// into DHCP option 97 in either order.
func SwapUUID(s string) string {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 {
		return s
	}
	slices.Reverse(b[0:4])
	slices.Reverse(b[4:6])
	slices.Reverse(b[6:8])
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// SameUUID compares two UUIDs in either byte order.
func SameUUID(a, b string) bool {
	a, b = strings.ToLower(a), strings.ToLower(b)
	return a == b || SwapUUID(a) == b
}

// placeholders are UUIDs that makers of mainboards left in many machines at once,
// besides those whose bytes are all alike.
var placeholders = []string{
	"03000200-0400-0500-0006-000700080009",
	"00010203-0405-0607-0809-0a0b0c0d0e0f",
	"00112233-4455-6677-8899-aabbccddeeff",
	"12345678-1234-5678-90ab-cddeefaabbcc",
	"4c4c4544-0000-2010-8020-80c04f202020",
	"deadbeef-dead-beef-dead-beefdeadbeef",
}

// Usable gives a UUID that can tell one machine from others, in lower case: it
// has the form of one, its bytes are not all alike (zeros: not present, ones: not
// set; SMBIOS, section 7.2.1), and it is no known placeholder in either byte order.
func Usable(s string) (string, bool) {
	u, ok := ParseUUID(s)
	if !ok || slices.ContainsFunc(placeholders, func(p string) bool { return SameUUID(p, u) }) {
		return "", false
	}
	digits := strings.ReplaceAll(u, "-", "")
	if strings.Repeat(digits[:2], 16) == digits {
		return "", false
	}
	return u, true
}

// MadeUUID is the UUID of a machine that has no usable one, or whose own is
// another server's: made from the MAC it booted from first (RFC 9562, version 8).
// n counts from 0 where that is taken.
func MadeUUID(mac string, n int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "nereid server %s %d", mac, n))
	b := sum[:16]
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// ParseMAC gives an Ethernet address in lower case with colons.
func ParseMAC(s string) (string, bool) {
	m, err := net.ParseMAC(s)
	if err != nil || len(m) != 6 {
		return "", false
	}
	return m.String(), true
}

// CheckHostname says what is wrong with a server's name: one label of RFC 1123,
// section 2.1, that is no UUID.
func CheckHostname(s string) error {
	switch {
	case !labelRE.MatchString(s):
		return fmt.Errorf("hostname %q: want 1 to 63 lower-case letters, digits and dashes, no dash at either end", s)
	case uuidRE.MatchString(s):
		return fmt.Errorf("hostname %q has the form of a UUID; take another name", s)
	}
	return nil
}

// nic is an interface that a machine lists.
type nic struct {
	mac string
	// identifies says that no other machine can be expected to have the MAC: its
	// maker made it unique, and it is not plugged from machine to machine. One on
	// USB may be hard-wired to the same MAC in every machine, as those of BMCs are.
	identifies bool
}

// nics lists the Ethernet addresses of a server's hardware, sorted, once each,
// without multicast and all-zero ones.
func nics(info api.Sysinfo) []nic {
	var out []nic
	for _, n := range info.NICs {
		m, ok := ParseMAC(n.MAC)
		if !ok || m == "00:00:00:00:00:00" {
			continue
		}
		hw, _ := net.ParseMAC(m)
		if hw[0]&1 != 0 {
			continue
		}
		out = append(out, nic{mac: m, identifies: hw[0]&2 == 0 && n.Bus != api.BusUSB})
	}
	slices.SortFunc(out, func(a, b nic) int { return strings.Compare(a.mac, b.mac) })
	return slices.CompactFunc(out, func(a, b nic) bool { return a.mac == b.mac })
}

// MACs lists the Ethernet addresses of a server's hardware, sorted, once each,
// without multicast and all-zero ones.
func MACs(info api.Sysinfo) []string {
	var out []string
	for _, n := range nics(info) {
		out = append(out, n.mac)
	}
	return out
}

// dashed is a MAC as a hostname.
func dashed(mac string) string { return strings.ReplaceAll(mac, ":", "-") }
