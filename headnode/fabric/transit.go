package fabric

import (
	"fmt"
	"iter"

	"nereid/headnode/store"
)

// TransitOf reads the VNI of an account's transit segment; found is false when it
// has none.
func TransitOf(tx store.Tx, owner string) (vni uint32, found bool, err error) {
	if vni, found, err = store.Lookup[uint32](tx, transitPrefix+owner); err != nil {
		err = fmt.Errorf("transit VNI of %s: %w", owner, err)
	}
	return vni, found, err
}

// Transits ranges over the accounts that have a transit segment.
func Transits(tx store.Tx) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for it, err := range tx.Scan(transitPrefix, "") {
			owner := ""
			if err == nil {
				owner = it.Key[len(transitPrefix):]
			}
			if !yield(owner, err) || err != nil {
				return
			}
		}
	}
}
