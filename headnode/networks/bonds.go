package networks

import (
	"fmt"
	"slices"

	"nereid/api"
	"nereid/headnode/store"
)

// Modes and rates of bonds (Linux, Documentation/networking/bonding.rst).
const (
	modeActiveBackup = "active-backup"
	mode8023ad       = "802.3ad"
	lacpSlow         = "slow" // a LACPDU every 30 s
	lacpFast         = "fast" // every second
)

// maxBond is the greatest number of a bond's members.
const maxBond = 16

// GetBond reads a bond of a server.
func GetBond(tx store.Tx, server, name string) (_ api.Bond, err error) {
	defer named(&err, "read bond %s of server %s", name, server)
	b, found, err := store.Lookup[api.Bond](tx, bondPrefix+server+"/"+name)
	if err == nil && !found {
		err = missing("bond", fmt.Sprintf("%.64q on server %.64s", name, server), "nereid bond list")
	}
	return b, err
}

// ListBonds reads a page of bonds by server and name; after is "SERVER/NAME". With
// a server named, only its bonds, and after is "NAME".
func ListBonds(tx store.Tx, server, after string, limit int) (_ []api.Bond, next string, err error) {
	defer named(&err, "list bonds")
	prefix := bondPrefix
	if server != "" {
		prefix += server + "/"
	}
	return store.Scan[api.Bond](tx, prefix, after, limit)
}

// checkBond checks a bond by itself and puts it in canonical form.
func checkBond(b *api.Bond, physical []string) error {
	var faults []error
	fault := func(next, format string, args ...any) { faults = append(faults, invalid(next, format, args...)) }
	server, ok := parseUUID(b.Server)
	if !ok {
		fault("give the server's UUID", "%.64q is not a UUID", b.Server)
	}
	if !bondRE.MatchString(b.Name) || slices.Contains([]string{"lo", "all", "default"}, b.Name) {
		fault("take another name, like bond0", "bond name %.64q: want 1 to 15 letters a-z and digits, a letter first, and no name that Linux keeps", b.Name)
	}
	if len(b.MACs) == 0 || len(b.MACs) > maxBond {
		fault("name its NICs", "bond %s has %d NICs; want 1 to %d", b.Name, len(b.MACs), maxBond)
	}
	switch {
	case b.Mode != modeActiveBackup && b.Mode != mode8023ad:
		fault("choose one of those", "mode %.64q of bond %s: want %s or %s", b.Mode, b.Name, modeActiveBackup, mode8023ad)
	case b.Mode == modeActiveBackup && b.LACPRate != "":
		fault("leave the rate out, or take mode 802.3ad", "bond %s: an active-backup bond has no LACP rate", b.Name)
	case b.Mode == mode8023ad && b.LACPRate == "":
		b.LACPRate = lacpSlow
	case b.Mode == mode8023ad && b.LACPRate != lacpSlow && b.LACPRate != lacpFast:
		fault("choose one of those", "LACP rate %.64q of bond %s: want %s or %s", b.LACPRate, b.Name, lacpSlow, lacpFast)
	}
	b.Server = server
	macs := make([]string, 0, len(b.MACs))
	for _, m := range b.MACs {
		mac, err := parseMAC(m)
		if err == nil && slices.Contains(macs, mac) {
			err = invalid("name each once", "NIC %s is in bond %s twice", mac, b.Name)
		}
		if err == nil {
			err = checkPhysical(server, mac, physical)
		}
		if err != nil {
			faults = append(faults, err)
			continue
		}
		macs = append(macs, mac)
	}
	b.MACs = macs
	return api.Faults(faults...)
}

// CreateBond makes a bond. Its members are physical NICs, and in no other bond, so
// that there can be no loop of bonds. The tags that they provided become the
// bond's, which has to name them: so a NIC with tags in use becomes part of a bond
// in one step. A tag that yet another NIC or bond provides is refused, or with move
// taken from there. physical are the MACs of the server's hardware; nil: not known.
func CreateBond(tx store.Tx, b api.Bond, physical []string, move bool) (_ api.Bond, err error) {
	defer named(&err, "create bond %s", b.Name)
	if err := checkBond(&b, physical); err != nil {
		return b, err
	}
	has, err := store.Has(tx, bondPrefix+b.Server+"/"+b.Name)
	if err != nil {
		return b, err
	}
	if has {
		return b, conflict("take another name, or change it with: nereid bond set SERVER NAME MAC...", "server %s has a bond %s", b.Server, b.Name)
	}
	return b, putBond(tx, api.Bond{Server: b.Server, Name: b.Name}, &b, move)
}

// UpdateBond replaces members, mode, rate and tags of a bond, as CreateBond does. A
// tag that NICs on the server use is not dropped; SetNICTagUse moves it. b.Revision, where
// there is one, is the revision that b was made of; api.CodeStale when it is another by now.
func UpdateBond(tx store.Tx, b api.Bond, physical []string, move bool) (_ api.Bond, err error) {
	defer named(&err, "change bond %s", b.Name)
	if err := checkBond(&b, physical); err != nil {
		return b, err
	}
	old, err := GetBond(tx, b.Server, b.Name)
	if err != nil {
		return b, err
	}
	if err := unchanged("bond "+b.Name, old.Revision, b.Revision); err != nil {
		return b, err
	}
	return b, putBond(tx, old, &b, move)
}

// putBond writes a bond, its members, and what it provides.
func putBond(tx store.Tx, old api.Bond, b *api.Bond, move bool) (err error) {
	for _, mac := range old.MACs {
		if slices.Contains(b.MACs, mac) {
			continue
		}
		if err := putPhys(tx, b.Server, phys{MAC: mac}); err != nil {
			return err
		}
	}
	boot := map[string]bool{}
	for _, mac := range b.MACs {
		p, err := getPhys(tx, b.Server, mac)
		if err != nil {
			return err
		}
		if p.Boot && !slices.Contains(b.NICTags, AdminTag) {
			b.NICTags = append(slices.Clone(b.NICTags), AdminTag)
		}
		boot[mac] = p.Boot
		if p.Bond != "" && p.Bond != b.Name {
			return conflict("take it out of that bond first", "NIC %s is a member of bond %s already", mac, p.Bond)
		}
		for _, tag := range p.NICTags {
			if !slices.Contains(b.NICTags, tag) {
				return conflict("let the bond provide the tag too, or take it from the NIC first", "NIC %s provides NIC tag %s, which bond %s would not", mac, tag, b.Name)
			}
		}
	}
	members := func(p provider) bool { return move || slices.Contains(b.MACs, string(p)) }
	if b.NICTags, err = provide(tx, b.Server, bondProvider(b.Name), old.NICTags, b.NICTags, members); err != nil {
		return err
	}
	for _, mac := range b.MACs {
		if err := putPhys(tx, b.Server, phys{MAC: mac, Bond: b.Name, Boot: boot[mac]}); err != nil {
			return err
		}
	}
	b.Revision = newRevision()
	return store.Put(tx, bondPrefix+b.Server+"/"+b.Name, *b)
}

// DeleteBond takes a bond apart. Tags of it that are in use have to be moved first.
func DeleteBond(tx store.Tx, server, name string) (err error) {
	defer named(&err, "delete bond %s", name)
	b, err := GetBond(tx, server, name)
	if err != nil {
		return err
	}
	boot, err := bootMember(tx, b)
	if err != nil {
		return err
	}
	tags := b.NICTags
	if boot != "" {
		tags = except(tags, AdminTag)
	}
	if _, err := provide(tx, server, bondProvider(name), tags, nil, nil); err != nil {
		return err
	}
	if err := removeBond(tx, b); err != nil || boot == "" {
		return err
	}
	return provideAdmin(tx, server, phys{MAC: boot})
}

// removeBond removes a bond that provides nothing.
func removeBond(tx store.Tx, b api.Bond) error {
	for _, mac := range b.MACs {
		if err := putPhys(tx, b.Server, phys{MAC: mac}); err != nil {
			return err
		}
	}
	return tx.Delete(bondPrefix + b.Server + "/" + b.Name)
}
