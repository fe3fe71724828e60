package networks

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"nereid/api"
	"nereid/headnode/store"
)

// macTries is how many MACs are tried before the prefix counts as used up.
const macTries = 4096

// permute maps the numbers of 24 bits one to one: multiplication by an odd number
// and xor with the upper bits can both be undone. So the MACs made from a counter
// do not repeat before 2^24 were made, and neighbours do not look alike.
func permute(n uint32) uint32 {
	const mask = 1<<24 - 1
	n &= mask
	n = n * 0x9e3779 & mask
	n ^= n >> 13
	n = n * 0xc2b2af & mask
	return n ^ n>>11
}

// NewMAC makes a MAC that neither a NIC nor a physical NIC that is known here has.
func NewMAC(tx store.Tx) (string, error) {
	s, err := GetSettings(tx)
	if err != nil {
		return "", err
	}
	count, found, err := store.Lookup[uint32](tx, macCounterKey)
	if err != nil {
		return "", err
	}
	if !found {
		var b [4]byte
		_, _ = rand.Read(b[:]) // it never fails (crypto/rand, Go 1.24)
		count = binary.BigEndian.Uint32(b[:])
	}
	for range macTries {
		n := permute(count)
		count = (count + 1) & (1<<24 - 1)
		mac := fmt.Sprintf("%s:%02x:%02x:%02x", s.MACPrefix, n>>16, n>>8&0xff, n&0xff)
		free, err := macFree(tx, mac)
		if err != nil {
			return "", err
		}
		if free {
			return mac, store.Put(tx, macCounterKey, count)
		}
	}
	return "", conflict("choose another MAC prefix in the fabric settings", "no MAC is left with prefix %s", s.MACPrefix)
}

// macFree says whether neither a NIC nor a physical NIC that is known has a MAC.
func macFree(tx store.Tx, mac string) (bool, error) {
	for _, key := range []string{nicPrefix + mac, physMACPrefix + mac} {
		if has, err := store.Has(tx, key); err != nil || has {
			return false, err
		}
	}
	return true, nil
}

// namedMAC checks a MAC that a request names. A server's own NIC may have that of
// its hardware.
func namedMAC(tx store.Tx, nic api.NetworkNIC) (string, error) {
	mac, err := parseMAC(nic.MAC)
	if err != nil {
		return "", err
	}
	has, err := store.Has(tx, nicPrefix+mac)
	if err != nil {
		return "", err
	}
	if has {
		return "", conflict("take another MAC, or leave it out and one is made", "there is a NIC %s already", mac)
	}
	server, found, err := store.Lookup[string](tx, physMACPrefix+mac)
	if err != nil {
		return "", err
	}
	if found && (nic.BelongsToType != api.BelongsToServer || nic.BelongsTo != server) {
		return "", conflict("take another MAC, or leave it out and one is made", "%s is a physical NIC of server %s", mac, server)
	}
	return mac, nil
}
