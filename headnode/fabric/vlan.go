package fabric

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

// maxDescription is in bytes.
const maxDescription = 1024

// maxListed is how many users a refusal names.
const maxListed = 20

// VLANUpdate changes a fabric VLAN; what is nil stays.
type VLANUpdate struct {
	Name        *string
	Description *string
}

func badOwner(owner string) error {
	return invalid("give the account's UUID, in lower case", "owner %.64q is no UUID", owner)
}

func noVLAN(owner string, vlan int) error {
	return refuse(http.StatusNotFound, api.CodeNotFound, "list them with: nereid fabric vlan list OWNER", "account %.64s has no fabric VLAN %d", owner, vlan)
}

// checkVLAN says what is wrong with a fabric VLAN.
func checkVLAN(v api.FabricVLAN) error {
	var faults []error
	if !uuidRE.MatchString(v.Owner) {
		faults = append(faults, badOwner(v.Owner))
	}
	if v.VLAN < 0 || v.VLAN == 1 || v.VLAN > 4094 {
		faults = append(faults, invalid("take another number", "VLAN %d: it can be 0 (untagged) or 2 to 4094", v.VLAN))
	}
	if !nameRE.MatchString(v.Name) {
		faults = append(faults, invalid("take another name", "name %.80q of fabric VLAN %d: want 1 to 63 letters, digits, dots, dashes and underscores, a letter or digit first", v.Name, v.VLAN))
	}
	if len(v.Description) > maxDescription {
		faults = append(faults, invalid("shorten it", "the description of fabric VLAN %d has %d bytes, at most %d are allowed", v.VLAN, len(v.Description), maxDescription))
	}
	return api.Faults(faults...)
}

// CreateVLAN makes a fabric VLAN and gives it a VNI; VNI and Revision of v are not
// looked at. An *api.Problem when it is not valid, or its number or name is taken.
func CreateVLAN(tx store.Tx, v api.FabricVLAN, now time.Time) (api.FabricVLAN, error) {
	return create(tx, v, now, drawVNI)
}

func create(tx store.Tx, v api.FabricVLAN, now time.Time, draw func() uint32) (api.FabricVLAN, error) {
	if err := checkVLAN(v); err != nil {
		return v, err
	}
	taken, err := store.Has(tx, vlanKey(v.Owner, v.VLAN))
	if err == nil && taken {
		err = refuse(http.StatusConflict, api.CodeConflict, "take another number, or change that one", "account %s has a fabric VLAN %d already", v.Owner, v.VLAN)
	}
	if err == nil {
		err = takeName(tx, v)
	}
	if err == nil {
		v.VNI, err = assign(tx, use{Owner: v.Owner, VLAN: v.VLAN}, now, draw)
	}
	v.Revision = NewRevision()
	if err == nil {
		err = store.Put(tx, vlanKey(v.Owner, v.VLAN), v)
	}
	if err != nil {
		return v, fmt.Errorf("create fabric VLAN: %w", err)
	}
	return v, nil
}

// takeName gives a free name to a VLAN.
func takeName(tx store.Tx, v api.FabricVLAN) error {
	other, found, err := store.Lookup[int](tx, nameKey(v.Owner, v.Name))
	if err != nil {
		return err
	}
	if found {
		return refuse(http.StatusConflict, api.CodeConflict, "take another name", "account %s calls its fabric VLAN %d %q already", v.Owner, other, v.Name)
	}
	return store.Put(tx, nameKey(v.Owner, v.Name), v.VLAN)
}

// GetVLAN reads a fabric VLAN; an *api.Problem with status 404 when there is none.
func GetVLAN(tx store.Tx, owner string, vlan int) (api.FabricVLAN, error) {
	v, found, err := store.Lookup[api.FabricVLAN](tx, vlanKey(owner, vlan))
	if err != nil {
		return v, fmt.Errorf("read fabric VLAN: %w", err)
	}
	if !found {
		return v, noVLAN(owner, vlan)
	}
	return v, nil
}

// FindVLAN is GetVLAN by name.
func FindVLAN(tx store.Tx, owner, name string) (api.FabricVLAN, error) {
	vlan, found, err := store.Lookup[int](tx, nameKey(owner, name))
	if err != nil {
		return api.FabricVLAN{}, fmt.Errorf("find fabric VLAN: %w", err)
	}
	if !found {
		return api.FabricVLAN{}, refuse(http.StatusNotFound, api.CodeNotFound, "list them with: nereid fabric vlan list OWNER", "account %.64s has no fabric VLAN %.64q", owner, name)
	}
	return GetVLAN(tx, owner, vlan)
}

// ByVNI reads the fabric VLAN that has a VNI; an *api.Problem with status 404 when
// none has, or the VNI is of a transit segment.
func ByVNI(tx store.Tx, vni uint32) (api.FabricVLAN, error) {
	u, found, err := store.Lookup[use](tx, vniKey(vni))
	if err != nil {
		return api.FabricVLAN{}, fmt.Errorf("find fabric VLAN: %w", err)
	}
	if !found || u.Transit || !u.Freed.IsZero() {
		return api.FabricVLAN{}, refuse(http.StatusNotFound, api.CodeNotFound, "list them with: nereid fabric vlan list OWNER", "no fabric VLAN has VNI %d", vni)
	}
	return GetVLAN(tx, u.Owner, u.VLAN)
}

// ListVLANs reads a page of the fabric VLANs of an account, or with an empty owner
// of all, by owner and number: at most limit, behind the key after. next is what to
// pass as after for the page that follows; it is empty on the last.
func ListVLANs(tx store.Tx, owner, after string, limit int) (list []api.FabricVLAN, next string, err error) {
	prefix := vlanPrefix
	if owner != "" {
		prefix += owner + "/"
	}
	list, next, err = store.Scan[api.FabricVLAN](tx, prefix, after, limit)
	if err != nil {
		return nil, "", fmt.Errorf("list fabric VLANs: %w", err)
	}
	return list, next, nil
}

// UpdateVLAN changes name and description of a fabric VLAN; its number and VNI stay.
// Whoever has an If-Match compares it with GetVLAN's Revision in the same
// transaction.
func UpdateVLAN(tx store.Tx, owner string, vlan int, u VLANUpdate) (api.FabricVLAN, error) {
	old, err := GetVLAN(tx, owner, vlan)
	if err != nil {
		return old, err
	}
	v := old
	if u.Name != nil {
		v.Name = *u.Name
	}
	if u.Description != nil {
		v.Description = *u.Description
	}
	if v == old {
		return v, nil
	}
	if err := checkVLAN(v); err != nil {
		return old, err
	}
	if v.Name != old.Name {
		if err = takeName(tx, v); err == nil {
			err = tx.Delete(nameKey(owner, old.Name))
		}
	}
	v.Revision = NewRevision()
	if err == nil {
		err = store.Put(tx, vlanKey(owner, vlan), v)
	}
	if err != nil {
		return old, fmt.Errorf("change fabric VLAN: %w", err)
	}
	return v, nil
}

// DeleteVLAN removes a fabric VLAN; its VNI rests for Quarantine. users are the
// networks that use it, as a person knows them: with any, it is refused with an
// *api.Problem that lists them. So is one with entries in its map.
func DeleteVLAN(tx store.Tx, owner string, vlan int, users []string, now time.Time) error {
	v, err := GetVLAN(tx, owner, vlan)
	if err != nil {
		return err
	}
	if len(users) > 0 {
		p := refuse(http.StatusConflict, api.CodeInUse, "delete these first", "fabric VLAN %d (%s) of account %s is used by %s", vlan, v.Name, owner, api.Plural(len(users), "network"))
		p.Errors = append(p.Errors, users[:min(len(users), maxListed)]...)
		if n := len(users) - maxListed; n > 0 {
			p.Errors = append(p.Errors, fmt.Sprintf("and %d more", n))
		}
		return p
	}
	if err = empty(tx, v.VNI); err == nil {
		err = release(tx, v.VNI, now)
	}
	if err == nil {
		err = tx.Delete(nameKey(owner, v.Name))
	}
	if err == nil {
		err = tx.Delete(vlanKey(owner, vlan))
	}
	if err != nil {
		return fmt.Errorf("delete fabric VLAN: %w", err)
	}
	return nil
}

// empty refuses a VNI whose map has entries, and names some of them.
func empty(tx store.Tx, vni uint32) error {
	s, _, err := journal.ReadState(tx, MapSet(vni))
	if err != nil || s.Live == 0 {
		return err
	}
	var some []string
	for n, err := range journal.Live(tx, MapSet(vni)) {
		if err != nil {
			return err
		}
		e, err := entryOf(n)
		if err != nil {
			return err
		}
		if some = append(some, e.IP); len(some) == 5 {
			break
		}
	}
	return refuse(http.StatusConflict, api.CodeInUse, "delete the NICs first", "VNI %d still has %s in use, such as %s", vni, api.Plural(s.Live, "address"), strings.Join(some, ", "))
}
