package networks

import (
	"fmt"

	"nereid/api"
	"nereid/headnode/store"
)

// AdminTag is the NIC tag of the network that servers boot from. It is always
// there, and its MTU is DefaultMTU: firmware knows no other.
const AdminTag = "admin"

// MTUs of NIC tags, in bytes. Networks may have less: 576 is what every IPv4 host
// takes (RFC 791), 1280 every IPv6 link (RFC 8200, section 5).
const (
	DefaultMTU = 1500
	MaxMTU     = 9000
	minMTU4    = 576
	minMTU6    = 1280
)

// admin is the tag that needs no record.
func admin() api.NICTag {
	return api.NICTag{Name: AdminTag, MTU: DefaultMTU, Description: "the network servers boot from", Revision: "0"}
}

// GetNICTag reads a NIC tag.
func GetNICTag(tx store.Tx, name string) (_ api.NICTag, err error) {
	defer named(&err, "read NIC tag %s", name)
	t, found, err := store.Lookup[api.NICTag](tx, tagPrefix+name)
	switch {
	case err != nil:
		return t, err
	case !found && name == AdminTag:
		return admin(), nil
	case !found:
		return t, missing("NIC tag", fmt.Sprintf("%.64q", name), "nereid nictag list")
	}
	return t, nil
}

// ListNICTags reads a page of NIC tags by name; see store.Scan.
func ListNICTags(tx store.Tx, after string, limit int) (_ []api.NICTag, next string, err error) {
	defer named(&err, "list NIC tags")
	stored, err := store.Has(tx, tagPrefix+AdminTag)
	if err != nil {
		return nil, "", err
	}
	var out []api.NICTag
	put := func(t api.NICTag) bool {
		if limit > 0 && len(out) == limit {
			next = out[len(out)-1].Name
			return false
		}
		out = append(out, t)
		return true
	}
	due := !stored && after < AdminTag // admin comes in its place
	for e, err := range store.EachBehind[api.NICTag](tx, tagPrefix, tagPrefix+after) {
		if err != nil {
			return nil, "", err
		}
		if due && e.Key > tagPrefix+AdminTag {
			if due = false; !put(admin()) {
				return out, next, nil
			}
		}
		if !put(e.Value) {
			return out, next, nil
		}
	}
	if due {
		put(admin())
	}
	return out, next, nil
}

// checkTag is what a tag must be by itself.
func checkTag(t api.NICTag) error {
	var name, mtu error
	if !tagRE.MatchString(t.Name) {
		name = invalid("take another name", "NIC tag name %.64q: want 1 to 31 letters, digits and underscores", t.Name)
	}
	switch {
	case t.Name == AdminTag && t.MTU != DefaultMTU:
		mtu = invalid("use another NIC tag for larger packets", "the MTU of NIC tag admin is always %d: servers boot from it", DefaultMTU)
	case t.MTU < DefaultMTU || t.MTU > MaxMTU:
		mtu = invalid("choose one in that range", "MTU %d of NIC tag %s: want %d to %d", t.MTU, t.Name, DefaultMTU, MaxMTU)
	}
	return api.Faults(name, mtu, checkDescription(t.Description))
}

// CreateNICTag makes a NIC tag.
func CreateNICTag(tx store.Tx, t api.NICTag) (_ api.NICTag, err error) {
	defer named(&err, "create NIC tag %s", t.Name)
	if t.MTU == 0 {
		t.MTU = DefaultMTU
	}
	if err := checkTag(t); err != nil {
		return t, err
	}
	has, err := store.Has(tx, tagPrefix+t.Name)
	if err != nil {
		return t, err
	}
	if has || t.Name == AdminTag {
		return t, conflict("take another name, or change it with: nereid nictag update "+t.Name, "NIC tag %s exists", t.Name)
	}
	t.Revision = newRevision()
	return t, store.Put(tx, tagPrefix+t.Name, t)
}

// UpdateNICTag changes a NIC tag. Its MTU cannot go below that of a network on it,
// nor, of the underlay's, below what fabric networks need.
func UpdateNICTag(tx store.Tx, name string, u api.NICTagUpdate) (_ api.NICTag, err error) {
	defer named(&err, "change NIC tag %s", name)
	t, err := GetNICTag(tx, name)
	if err != nil {
		return t, err
	}
	if u.Description != nil {
		t.Description = *u.Description
	}
	if u.MTU != nil {
		t.MTU = *u.MTU
		if t.MTU == 0 {
			t.MTU = DefaultMTU
		}
	}
	if err := checkTag(t); err != nil {
		return t, err
	}
	if err := tagMTUFits(tx, t); err != nil {
		return t, err
	}
	t.Revision = newRevision()
	if err := store.Put(tx, tagPrefix+name, t); err != nil {
		return t, err
	}
	return t, overlayFits(tx, fmt.Sprintf("NIC tag %s cannot have MTU %d", name, t.MTU))
}

// tagMTUFits refuses an MTU below that of a network on the tag.
func tagMTUFits(tx store.Tx, t api.NICTag) error {
	var u uses
	err := eachOnTag(tx, t.Name, func(n network) bool {
		return n.MTU <= t.MTU || u.add("network %s (%s) has MTU %d", n.Name, n.UUID, n.MTU)
	})
	if err != nil {
		return err
	}
	return u.refuse("lower the networks' MTU first", "NIC tag %s cannot have MTU %d: networks on it have more", t.Name, t.MTU)
}

// eachOnTag calls fn for the networks on a tag until it says false.
func eachOnTag(tx store.Tx, tag string, fn func(network) bool) error {
	for n, err := range networksAt(tx, segmentPrefix+"tag/"+tag+"/") {
		if err != nil {
			return err
		}
		if !fn(n) {
			return nil
		}
	}
	return nil
}

// DeleteNICTag removes a NIC tag that nothing uses or provides.
func DeleteNICTag(tx store.Tx, name string) (err error) {
	defer named(&err, "delete NIC tag %s", name)
	if _, err := GetNICTag(tx, name); err != nil {
		return err
	}
	if name == AdminTag {
		return conflict("", "NIC tag admin stays: servers boot from it")
	}
	var u uses
	s, err := GetSettings(tx)
	if err != nil {
		return err
	}
	if s.UnderlayTag == name {
		u.add("it is the underlay of the fabrics")
	}
	if err := eachOnTag(tx, name, func(n network) bool { return u.add("network %s (%s)", n.Name, n.UUID) }); err != nil {
		return err
	}
	for it, err := range tx.Scan(providerPrefix+name+"/", "") {
		if err != nil {
			return err
		}
		if !u.add("server %s provides it by %s", it.Key[len(providerPrefix+name+"/"):], provider(it.Value)) {
			break
		}
	}
	if err := u.refuse("delete or change those first", "NIC tag %s is in use", name); err != nil {
		return err
	}
	return tx.Delete(tagPrefix + name)
}
