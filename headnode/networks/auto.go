package networks

import (
	"crypto/sha256"
	"net/netip"
	"slices"

	"nereid/headnode/store"
)

// NextSubnet gives the subnet of an account's next fabric network when none is
// named: the first that overlaps no other of its fabric, a /24 of 192.168.128.0/17,
// then 10.0.0.0/8, then 172.16.0.0/12. For "ipv6" it is a /64 of the account's own
// fd00::/8 prefix of 48 bits, whose 40 bits RFC 4193 wants to be random; they are
// the first of the SHA-256 of the account's UUID, so that they are found again.
// Its first host is a good gateway.
func NextSubnet(tx store.Tx, owner, family string) (_ netip.Prefix, err error) {
	defer named(&err, "find a subnet in the fabric of %s", owner)
	owner, ok := parseUUID(owner)
	if !ok {
		return netip.Prefix{}, invalid("give the account's UUID", "owner %.64q is not a UUID", owner)
	}
	var used []netip.Prefix
	for it, err := range tx.Scan(fabricPrefix+owner+"/", "") {
		if err != nil {
			return netip.Prefix{}, err
		}
		p, err := netip.ParsePrefix(string(it.Value))
		if err != nil {
			return netip.Prefix{}, err
		}
		used = append(used, p)
	}
	slices.SortFunc(used, netip.Prefix.Compare)
	blocks, bits := []netip.Prefix{netip.MustParsePrefix("192.168.128.0/17"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12")}, 24
	if family == familyIPv6 {
		blocks, bits = []netip.Prefix{ula(owner)}, 64
	}
	for _, block := range blocks {
		if p, ok := gap(block, bits, used); ok {
			return p, nil
		}
	}
	return netip.Prefix{}, conflict("name a subnet", "every subnet that is given out unasked overlaps one of the account's fabric")
}

// ula is the account's RFC 4193 prefix.
func ula(owner string) netip.Prefix {
	sum := sha256.Sum256([]byte(owner))
	b := [16]byte{0xfd}
	copy(b[1:6], sum[:])
	return netip.PrefixFrom(netip.AddrFrom16(b), 48)
}

// gap is the first subnet of a block that overlaps none of those used, which are
// sorted and do not overlap each other.
func gap(block netip.Prefix, bits int, used []netip.Prefix) (netip.Prefix, bool) {
	p := netip.PrefixFrom(block.Addr(), bits)
	for _, u := range used {
		if !u.Overlaps(p) {
			continue
		}
		end := lastOf(u)
		if u.Bits() > bits {
			end = lastOf(netip.PrefixFrom(end, bits))
		}
		next := end.Next()
		if !next.IsValid() || !block.Contains(next) {
			return p, false
		}
		p = netip.PrefixFrom(next, bits)
	}
	return p, true
}
