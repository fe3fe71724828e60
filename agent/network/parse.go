package network

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// parsePrefix parses an address with its prefix length; host bits are kept.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return p, fmt.Errorf("%q is not an address with a prefix length", s)
	}
	return p, nil
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return a, fmt.Errorf("%q is not an IP address", s)
	}
	return a.Unmap(), nil
}

// parseMAC returns the canonical form of a 48 bit MAC.
func parseMAC(s string) (string, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return "", fmt.Errorf("%q is not a MAC address", s)
	}
	return hw.String(), nil
}

func parseRoutes(m map[string]string) ([]Route, error) {
	var routes []Route
	for _, dst := range slices.Sorted(maps.Keys(m)) {
		p, err := parsePrefix(dst)
		if err != nil {
			return nil, err
		}
		via, err := parseAddr(m[dst])
		if err != nil {
			return nil, err
		}
		routes = append(routes, Route{Dst: p.Masked(), Via: via})
	}
	return routes, nil
}

// defaultOf is the default route's destination in an address's family.
func defaultOf(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// sameMAC compares MACs of any spelling.
func sameMAC(a, b string) bool { return a != "" && strings.EqualFold(a, b) }

func parseMACBytes(s string) (m MAC, err error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return m, fmt.Errorf("%q is not a MAC address", s)
	}
	copy(m[:], hw)
	return m, nil
}

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }
