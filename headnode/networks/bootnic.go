package networks

import (
	"errors"
	"slices"

	"nereid/api"
	"nereid/headnode/store"
)

// BootedFrom lets the NIC that a server booted from, or the bond that it is in, provide
// NIC tag admin, unless an operator has let another NIC or bond do so. changed says
// whether it did not before.
func BootedFrom(tx store.Tx, server, mac string) (changed bool, err error) {
	defer named(&err, "provide NIC tag admin by %s", mac)
	from, found, err := lookup(tx, providerPrefix+AdminTag+"/"+server)
	if err != nil || found && from == mac {
		return false, err
	}
	p, err := getPhys(tx, server, mac)
	if problem := (*api.Problem)(nil); errors.As(err, &problem) {
		return false, nil // it is another's, as an operator sees in its server's list
	}
	if err != nil {
		return false, err
	}
	if found {
		if _, isBond := provider(from).bond(); isBond {
			return false, nil
		}
		old, err := getPhys(tx, server, from)
		if err != nil || !old.Boot {
			return false, err
		}
		if err := stopProviding(tx, server, provider(from), AdminTag); err != nil {
			return false, err
		}
	}
	return true, provideAdmin(tx, server, p)
}

// provideAdmin lets a physical NIC, or the bond that it is in, provide NIC tag admin.
func provideAdmin(tx store.Tx, server string, p phys) error {
	self := provider(p.MAC)
	p.Boot = true
	if p.Bond == "" {
		p.NICTags = withTag(p.NICTags, AdminTag)
	} else {
		self = bondProvider(p.Bond)
		b, err := GetBond(tx, server, p.Bond)
		if err != nil {
			return err
		}
		b.NICTags, b.Revision = withTag(b.NICTags, AdminTag), newRevision()
		if err := store.Put(tx, bondPrefix+server+"/"+b.Name, b); err != nil {
			return err
		}
	}
	if err := tx.Put(providerPrefix+AdminTag+"/"+server, []byte(self)); err != nil {
		return err
	}
	return putPhys(tx, server, p)
}

// withTag is a sorted list with one more tag.
func withTag(tags []string, tag string) []string {
	return slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(tags), tag))))
}

// bootMember is the member of a bond for which the bond provides NIC tag admin; empty:
// none.
func bootMember(tx store.Tx, b api.Bond) (string, error) {
	for _, mac := range b.MACs {
		p, err := getPhys(tx, b.Server, mac)
		if err != nil {
			return "", err
		}
		if p.Boot && slices.Contains(b.NICTags, AdminTag) {
			return mac, nil
		}
	}
	return "", nil
}
