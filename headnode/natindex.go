package headnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// transitAddr is a server's address on transit VNIs, the same on all of them. One that has
// none is given one.
func transitAddr(tx store.Tx, server string) (netip.Addr, error) {
	a, found, err := knownTransit(tx, server)
	if err == nil && !found {
		if _, err = newIndex(tx, server, rand.Uint32N); err == nil {
			err = tellNAT(tx, server)
		}
		if err == nil {
			a, _, err = knownTransit(tx, server)
		}
	}
	if err != nil {
		return netip.Addr{}, fmt.Errorf("transit address of server %s: %w", server, err)
	}
	return a, nil
}

// knownTransit is the address that transitAddr gave a server.
func knownTransit(tx store.Tx, server string) (a netip.Addr, found bool, err error) {
	n, found, err := store.Lookup[uint32](tx, natIndexPrefix+server)
	if err != nil || !found {
		return netip.Addr{}, false, err
	}
	first := networks.Transit.Addr().As4()
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(first[:])+n)
	return netip.AddrFrom4(b), true, nil
}

// indexDraws is how many numbers are drawn before there seems to be none left: there
// are four million, for thousands of servers.
const indexDraws = 64

// newIndex gives a server a number that no other server has: below the number of
// transit addresses, and not that of the first or the last of them. Numbers are
// drawn, for a counter would be a key that all servers' first transactions write.
func newIndex(tx store.Tx, server string, draw func(n uint32) uint32) (uint32, error) {
	size := uint32(1) << (32 - networks.Transit.Bits())
	for range indexDraws {
		n := 1 + draw(size-2)
		taken, err := store.Has(tx, indexedKey(n))
		if err != nil {
			return 0, err
		}
		if !taken {
			return n, errors.Join(store.Put(tx, indexedKey(n), server), store.Put(tx, natIndexPrefix+server, n))
		}
	}
	return 0, fmt.Errorf("no free number of %d was found in %d draws", size-2, indexDraws)
}

func indexedKey(n uint32) string { return fmt.Sprintf("%s%06x", natIndexedPrefix, n) }

// takeOverIndexes notes which server has which number where a version before counted
// them.
func takeOverIndexes(tx store.Tx) error {
	const counter = "nat/indexes"
	if has, err := store.Has(tx, counter); err != nil || !has {
		return err
	}
	for e, err := range store.Each[uint32](tx, natIndexPrefix) {
		if err == nil {
			err = store.Put(tx, indexedKey(e.Value), e.Key[len(natIndexPrefix):])
		}
		if err != nil {
			return fmt.Errorf("take over the numbers of transit addresses: %w", err)
		}
	}
	return tx.Delete(counter)
}
