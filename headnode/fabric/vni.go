package fabric

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// Quarantine is how long a VNI that was given back is not given out again: longer
// than a server should be away that still has ports in it.
const Quarantine = 90 * 24 * time.Hour

// draws is how often a VNI is drawn before giving up. With half of all 16 million
// in use, all of them fail once in 2^64.
const draws = 64

// use is what a VNI is used for.
type use struct {
	Owner   string    `json:"owner"`
	VLAN    int       `json:"vlan"`
	Transit bool      `json:"transit,omitempty"` // between an account's routers; VLAN means nothing
	Freed   time.Time `json:"freed,omitzero"`    // it rests since then
}

// NewRevision makes a revision: 16 random hexadecimal digits.
func NewRevision() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // it never fails (crypto/rand, Go 1.24)
	return hex.EncodeToString(b)
}

// drawVNI makes a random VNI, not 0.
func drawVNI() uint32 {
	var b [4]byte
	for {
		_, _ = rand.Read(b[:])
		if v := binary.BigEndian.Uint32(b[:]) & maxVNI; v != 0 {
			return v
		}
	}
}

// assign takes a VNI that is neither in use nor rests. draw is drawVNI.
func assign(tx store.Tx, u use, now time.Time, draw func() uint32) (uint32, error) {
	if err := wakeOne(tx, now); err != nil {
		return 0, err
	}
	for range draws {
		vni := draw()
		taken, err := store.Has(tx, vniKey(vni))
		if err != nil {
			return 0, err
		}
		if !taken {
			return vni, store.Put(tx, vniKey(vni), u)
		}
	}
	return 0, refuse(http.StatusInsufficientStorage, api.CodeNoSpace, "delete fabric VLANs that are not used", "no free VNI was found in %d draws: nearly all of the %d are in use", draws, maxVNI)
}

// release lets a VNI rest.
func release(tx store.Tx, vni uint32, now time.Time) error {
	if err := wakeOne(tx, now); err != nil {
		return err
	}
	u, err := store.Get[use](tx, vniKey(vni))
	if err != nil {
		return err
	}
	u.Freed = now.UTC()
	if err := store.Put(tx, vniKey(vni), u); err != nil {
		return err
	}
	return tx.Put(freedKey(now, vni), nil)
}

func freedKey(t time.Time, vni uint32) string {
	return fmt.Sprintf("%s%016x/%06x", freedPrefix, max(0, t.Unix()), vni)
}

// wakeOne ends the rest of one VNI, if one has rested for long enough, and drops
// what is left of its map. That each transaction that takes or releases a VNI does
// it once keeps the resting ones bounded.
func wakeOne(tx store.Tx, now time.Time) error {
	for it, err := range tx.Scan(freedPrefix, "") {
		if err != nil {
			return err
		}
		if it.Key >= freedKey(now.Add(-Quarantine), 0) {
			return nil
		}
		n, err := strconv.ParseUint(it.Key[len(it.Key)-6:], 16, 24)
		if err != nil {
			return fmt.Errorf("key %q: %w", it.Key, err)
		}
		vni := uint32(n)
		if err := drop(tx, vni); err != nil {
			return err
		}
		if err := tx.Delete(vniKey(vni)); err != nil {
			return err
		}
		return tx.Delete(it.Key)
	}
	return nil
}

// inUse checks that a VNI is one that was given out and not given back.
func inUse(tx store.Tx, vni uint32) error {
	u, found, err := store.Lookup[use](tx, vniKey(vni))
	if err != nil {
		return err
	}
	if !found || !u.Freed.IsZero() {
		return refuse(http.StatusNotFound, api.CodeNotFound, "an account's VLANs have their VNIs: nereid fabric vlan list OWNER", "VNI %d is not in use", vni)
	}
	return nil
}

// OwnerOf is the account that a VNI was given out to, and whether it is that account's
// transit segment; found is false when the VNI is not in use.
func OwnerOf(tx store.Tx, vni uint32) (owner string, transit, found bool, err error) {
	u, found, err := store.Lookup[use](tx, vniKey(vni))
	if err != nil {
		return "", false, false, fmt.Errorf("find owner of VNI %d: %w", vni, err)
	}
	return u.Owner, u.Transit, found && u.Freed.IsZero(), nil
}

// Transit gives the VNI of the segment between an account's routers and its
// gateway servers; the first call takes one.
func Transit(tx store.Tx, owner string, now time.Time) (uint32, error) {
	if !uuidRE.MatchString(owner) {
		return 0, badOwner(owner)
	}
	vni, found, err := store.Lookup[uint32](tx, transitPrefix+owner)
	if err == nil && !found {
		if vni, err = assign(tx, use{Owner: owner, Transit: true}, now, drawVNI); err == nil {
			err = store.Put(tx, transitPrefix+owner, vni)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("transit VNI of %s: %w", owner, err)
	}
	return vni, nil
}

// DropTransit gives the VNI of an account's transit segment back. None is no error;
// an *api.Problem when its map still has entries.
func DropTransit(tx store.Tx, owner string, now time.Time) error {
	vni, found, err := store.Lookup[uint32](tx, transitPrefix+owner)
	if err == nil && found {
		if err = empty(tx, vni); err == nil {
			err = release(tx, vni, now)
		}
		if err == nil {
			err = tx.Delete(transitPrefix + owner)
		}
	}
	if err != nil {
		return fmt.Errorf("drop transit VNI of %s: %w", owner, err)
	}
	return nil
}
