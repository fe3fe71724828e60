package fabric

import (
	"fmt"

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
