package networks

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"nereid/api"
	"nereid/headnode/store"
)

// macDraws is how many MACs are tried before the prefix counts as used up. With 99 %
// of it in use, all of them are taken once in 10^17.
const macDraws = 4096

// DrawMAC draws the last 24 bits of a MAC. They are drawn, not counted: a counter
// would be a key that all who make NICs write.
func DrawMAC() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // it never fails (crypto/rand, Go 1.24)
	return binary.BigEndian.Uint32(b[:]) & (1<<24 - 1)
}

// TakeOverMACs removes the counter from which a version before made MACs.
func TakeOverMACs(tx store.Tx) error {
	const counter = Prefix + "mac-counter"
	has, err := store.Has(tx, counter)
	if err == nil && has {
		err = tx.Delete(counter)
	}
	return err
}

// NewMAC makes a MAC that neither a NIC nor a physical NIC that is known here has, of
// what draw gives. taken, which may be nil, says of a MAC whether anything else has it.
func NewMAC(tx store.Tx, draw func() uint32, taken func(mac string) (bool, error)) (string, error) {
	s, err := GetSettings(tx)
	if err != nil {
		return "", err
	}
	for range macDraws {
		n := draw()
		mac := fmt.Sprintf("%s:%02x:%02x:%02x", s.MACPrefix, n>>16&0xff, n>>8&0xff, n&0xff)
		known, err := tx.GetAll(nicPrefix+mac, physMACPrefix+mac)
		if err != nil {
			return "", err
		}
		has := known[0] != nil || known[1] != nil
		if !has && taken != nil {
			if has, err = taken(mac); err != nil {
				return "", err
			}
		}
		if !has {
			return mac, nil
		}
	}
	return "", conflict("choose another MAC prefix in the fabric settings", "no free MAC with the prefix %s was found in %d draws", s.MACPrefix, macDraws)
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
