package addresses

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// check finds a network no address can be given out of.
func (n Network) check() error {
	switch {
	case !n.Own.IsValid() || !n.Own.Addr().Is4():
		return fmt.Errorf("admin network: own address %v: want an IPv4 address with prefix length", n.Own)
	case !n.First.Is4() || !n.Last.Is4() || n.Last.Less(n.First):
		return fmt.Errorf("admin network: range %v-%v: want two IPv4 addresses, the lower first", n.First, n.Last)
	case !n.Own.Contains(n.First) || !n.Own.Contains(n.Last):
		return fmt.Errorf("admin network: range %v-%v is not inside %v", n.First, n.Last, n.Own.Masked())
	case n.Lease <= 0:
		return fmt.Errorf("admin network: lease %v: want more than 0", n.Lease)
	}
	return nil
}

// usable says whether a server may have the address at all.
func (n Network) usable(a netip.Addr) bool {
	if !n.Own.Contains(a) || a == n.Own.Addr() || a == n.Gateway {
		return false
	}
	if slices.Contains(n.Exclude, a) || slices.Contains(n.DNS, a) {
		return false
	}
	if n.Own.Bits() >= 31 {
		return true // RFC 3021: no network and broadcast address
	}
	first := number(n.Own.Masked().Addr())
	return number(a) != first && number(a) != first+1<<(32-n.Own.Bits())-1
}

// inRange says whether a newcomer may get the address.
func (n Network) inRange(a netip.Addr) bool {
	return !a.Less(n.First) && !n.Last.Less(a) && n.usable(a)
}

// size is the number of addresses of the range that can be given out.
func (n Network) size() int {
	total := int(number(n.Last)-number(n.First)) + 1
	lost := make(map[netip.Addr]bool)
	first := number(n.Own.Masked().Addr())
	special := slices.Concat([]netip.Addr{n.Own.Addr(), n.Gateway, address(first), address(first + 1<<(32-n.Own.Bits()) - 1)}, n.Exclude, n.DNS)
	for _, a := range special {
		if a.Is4() && !a.Less(n.First) && !n.Last.Less(a) && !n.usable(a) {
			lost[a] = true
		}
	}
	return total - len(lost)
}

// number is an IPv4 address as an integer, wide enough to count past the last.
func number(a netip.Addr) uint64 {
	b := a.As4()
	return uint64(binary.BigEndian.Uint32(b[:]))
}

func address(n uint64) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// canonical gives the form of a MAC that keys use: lower case, with colons.
func canonical(mac string) (string, error) {
	hw, err := net.ParseMAC(mac)
	if err != nil || len(hw) != 6 {
		return "", fmt.Errorf("%.64q: %w", mac, ErrBadMAC)
	}
	return hw.String(), nil
}
