package inventory

import (
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

// MACs lists the Ethernet addresses of a server's hardware, sorted, once each,
// without multicast and all-zero ones.
func MACs(info api.Sysinfo) []string {
	var out []string
	for _, n := range info.NICs {
		m, ok := ParseMAC(n.MAC)
		if !ok || m == "00:00:00:00:00:00" {
			continue
		}
		if hw, _ := net.ParseMAC(m); hw[0]&1 != 0 {
			continue
		}
		out = append(out, m)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func intersects(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

// dashed is a MAC as a hostname.
func dashed(mac string) string { return strings.ReplaceAll(mac, ":", "-") }
