package networks

import (
	"fmt"
	"slices"
	"strings"

	"nereid/api"
	"nereid/headnode/store"
)

// provider names what provides a NIC tag on a server: a physical NIC by its MAC, a
// bond by "bond " and its name.
type provider string

func bondProvider(name string) provider { return provider("bond " + name) }

// bond gives the name of a bond that is a provider.
func (p provider) bond() (string, bool) { return strings.CutPrefix(string(p), "bond ") }

// String names it for people.
func (p provider) String() string {
	if _, ok := p.bond(); ok {
		return string(p)
	}
	return "NIC " + string(p)
}

// phys is a physical NIC of a server, as far as it matters here.
type phys struct {
	MAC     string   `json:"mac"`
	Bond    string   `json:"bond,omitempty"` // it is a member of
	NICTags []string `json:"nic_tags,omitempty"`
	Boot    bool     `json:"boot,omitempty"` // it provides admin, itself or by its bond, as the server booted from it
}

// checkPhysical says whether a server has a NIC. physical are the MACs of its
// hardware; nil: not known.
func checkPhysical(server, mac string, physical []string) error {
	if physical == nil || slices.Contains(physical, mac) {
		return nil
	}
	return conflict("choose one of the server's physical NICs", "server %s has no physical NIC %s; it has %s", server, mac, strings.Join(physical, ", "))
}

// getPhys reads a physical NIC of a server. One that is known of another server,
// or that is a NIC made here, is refused.
func getPhys(tx store.Tx, server, mac string) (phys, error) {
	other, found, err := store.Lookup[string](tx, physMACPrefix+mac)
	if err != nil {
		return phys{}, err
	}
	if found && other != server {
		return phys{}, conflict("check the MAC, or take it from the other server first", "NIC %s is one of server %s", mac, other)
	}
	n, found, err := store.Lookup[api.NetworkNIC](tx, nicPrefix+mac)
	if err != nil {
		return phys{}, err
	}
	if found && n.BelongsTo != server {
		return phys{}, conflict("choose one of the server's physical NICs", "%s is no physical NIC: it belongs to %s %s", mac, n.BelongsToType, n.BelongsTo)
	}
	p, _, err := store.Lookup[phys](tx, physPrefix+server+"/"+mac)
	p.MAC = mac
	return p, err
}

// putPhys writes a physical NIC; one that does nothing needs no record.
func putPhys(tx store.Tx, server string, p phys) error {
	if p.Bond == "" && len(p.NICTags) == 0 {
		if err := tx.Delete(physMACPrefix + p.MAC); err != nil {
			return err
		}
		return tx.Delete(physPrefix + server + "/" + p.MAC)
	}
	if err := store.Put(tx, physMACPrefix+p.MAC, server); err != nil {
		return err
	}
	return store.Put(tx, physPrefix+server+"/"+p.MAC, p)
}

// GetNICTagUse says which NIC tags a physical NIC of a server provides.
func GetNICTagUse(tx store.Tx, server, mac string) (_ api.NICTagUse, err error) {
	defer named(&err, "read NIC tags of %s", mac)
	if mac, err = parseMAC(mac); err != nil {
		return api.NICTagUse{}, err
	}
	p, err := getPhys(tx, server, mac)
	return api.NICTagUse{MAC: mac, NICTags: p.NICTags}, err
}

// NICTagUses lists the physical NICs of a server that provide NIC tags, by MAC.
func NICTagUses(tx store.Tx, server string) (_ []api.NICTagUse, err error) {
	defer named(&err, "list NIC tags of server %s", server)
	var out []api.NICTagUse
	for e, err := range store.Each[phys](tx, physPrefix+server+"/") {
		if err != nil {
			return nil, err
		}
		if len(e.Value.NICTags) > 0 {
			out = append(out, api.NICTagUse{MAC: e.Value.MAC, NICTags: e.Value.NICTags})
		}
	}
	return out, nil
}

// SetNICTagUse says which NIC tags a physical NIC of a server provides from now
// on. A tag has one provider on a server: one that another NIC or bond provides is
// refused, or with move taken from there. A tag that NICs on the server use is not
// dropped.
//
// physical are the MACs of the server's hardware; nil: not known.
func SetNICTagUse(tx store.Tx, server string, use api.NICTagUse, physical []string, move bool) (_ api.NICTagUse, err error) {
	defer named(&err, "change NIC tags of %s", use.MAC)
	if use.MAC, err = parseMAC(use.MAC); err != nil {
		return use, err
	}
	server, ok := parseUUID(server)
	if !ok {
		return use, invalid("give the server's UUID", "%.64q is not a UUID", server)
	}
	if err := checkPhysical(server, use.MAC, physical); err != nil {
		return use, err
	}
	p, err := getPhys(tx, server, use.MAC)
	if err != nil {
		return use, err
	}
	if p.Bond != "" && len(use.NICTags) > 0 {
		return use, conflict("let the bond provide the tags: nereid bond set "+server+" "+p.Bond+" MAC... --nic-tag TAG", "NIC %s is a member of bond %s", use.MAC, p.Bond)
	}
	if p.Boot && !slices.Contains(use.NICTags, AdminTag) {
		use.NICTags = append(slices.Clone(use.NICTags), AdminTag)
	} else {
		p.Boot = false // it does as it is told
	}
	tags, err := provide(tx, server, provider(use.MAC), p.NICTags, use.NICTags, func(provider) bool { return move })
	if err != nil {
		return use, err
	}
	p.NICTags = tags
	return api.NICTagUse{MAC: use.MAC, NICTags: tags}, putPhys(tx, server, p)
}

// provide makes a provider, whose record the caller writes, provide other tags
// than before. may says from whom it takes tags.
func provide(tx store.Tx, server string, self provider, before, after []string, may func(provider) bool) ([]string, error) {
	after = slices.Sorted(slices.Values(after))
	if len(slices.Compact(slices.Clone(after))) != len(after) {
		return nil, invalid("name each once", "a NIC tag is there twice: %s", strings.Join(after, ", "))
	}
	var unknown []error
	for _, tag := range after {
		if !slices.Contains(before, tag) {
			_, err := GetNICTag(tx, tag)
			unknown = append(unknown, err)
		}
	}
	if err := api.Faults(unknown...); err != nil {
		return nil, err
	}
	for _, tag := range after {
		if slices.Contains(before, tag) {
			continue
		}
		key := providerPrefix + tag + "/" + server
		b, found, err := lookup(tx, key)
		if err != nil {
			return nil, err
		}
		if other := provider(b); found && other != self {
			if !may(other) {
				return nil, conflict("move the tag, or take it from there first", "NIC tag %s of server %s is provided by %s already", tag, server, other)
			}
			if err := stopProviding(tx, server, other, tag); err != nil {
				return nil, err
			}
		}
		if err := tx.Put(key, []byte(self)); err != nil {
			return nil, err
		}
	}
	for _, tag := range before {
		if slices.Contains(after, tag) {
			continue
		}
		if err := tagUnused(tx, server, tag); err != nil {
			return nil, err
		}
		if err := tx.Delete(providerPrefix + tag + "/" + server); err != nil {
			return nil, err
		}
	}
	return after, nil
}

// stopProviding takes a tag from the record of a provider.
func stopProviding(tx store.Tx, server string, from provider, tag string) error {
	if name, ok := from.bond(); ok {
		b, err := store.Get[api.Bond](tx, bondPrefix+server+"/"+name)
		if err != nil {
			return err
		}
		b.NICTags = except(b.NICTags, tag)
		b.Revision = newRevision()
		return store.Put(tx, bondPrefix+server+"/"+name, b)
	}
	p, err := store.Get[phys](tx, physPrefix+server+"/"+string(from))
	if err != nil {
		return err
	}
	p.NICTags = except(p.NICTags, tag)
	p.Boot = p.Boot && tag != AdminTag
	return putPhys(tx, server, p)
}

// except is a list without one of its strings.
func except(list []string, s string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(t string) bool { return t == s })
}

// tagUnused refuses to take a tag from a server while NICs on it use it.
func tagUnused(tx store.Tx, server, tag string) error {
	s, err := GetSettings(tx)
	if err != nil {
		return err
	}
	var u uses
	if tag == AdminTag {
		u.add("the server boots from it")
	}
	err = eachNICOf(tx, 's', server, func(n api.NetworkNIC) bool {
		if n.NICTag != tag && (n.VNI == 0 || tag != s.UnderlayTag) {
			return true
		}
		return u.add("NIC %s of %s %s", n.MAC, n.BelongsToType, n.BelongsTo)
	})
	if err != nil {
		return err
	}
	return u.refuse("move the tag to another NIC or bond in one step, or move those away first", "server %s needs NIC tag %s", server, tag)
}

// ProvidedTags lists the NIC tags that a server's NICs and bonds provide, sorted.
func ProvidedTags(tx store.Tx, server string) (_ []string, err error) {
	defer named(&err, "list NIC tags of server %s", server)
	out := []string{}
	for e, err := range store.Each[phys](tx, physPrefix+server+"/") {
		if err != nil {
			return nil, err
		}
		out = append(out, e.Value.NICTags...)
	}
	for e, err := range store.Each[api.Bond](tx, bondPrefix+server+"/") {
		if err != nil {
			return nil, err
		}
		out = append(out, e.Value.NICTags...)
	}
	slices.Sort(out)
	return out, nil
}

// Providers says what provides each NIC tag that a server has, as people name it:
// "NIC " and a MAC, or "bond " and a name.
func Providers(tx store.Tx, server string) (_ map[string]string, err error) {
	defer named(&err, "list providers of server %s", server)
	out := map[string]string{}
	uses, err := NICTagUses(tx, server)
	if err != nil {
		return nil, err
	}
	for _, u := range uses {
		for _, tag := range u.NICTags {
			out[tag] = provider(u.MAC).String()
		}
	}
	for e, err := range store.Each[api.Bond](tx, bondPrefix+server+"/") {
		if err != nil {
			return nil, err
		}
		for _, tag := range e.Value.NICTags {
			out[tag] = bondProvider(e.Value.Name).String()
		}
	}
	return out, nil
}

// ServersProviding lists the servers that provide a NIC tag, by UUID.
func ServersProviding(tx store.Tx, tag string) (_ []string, err error) {
	defer named(&err, "list servers with NIC tag %s", tag)
	var out []string
	for server, err := range below(tx, providerPrefix+tag+"/") {
		if err != nil {
			return nil, err
		}
		out = append(out, server)
	}
	return out, nil
}

// lookup is Tx.Get for a key that need not be there.
func lookup(tx store.Tx, key string) (string, bool, error) {
	has, err := store.Has(tx, key)
	if err != nil || !has {
		return "", false, err
	}
	b, err := tx.Get(key)
	if err != nil {
		return "", false, fmt.Errorf("read %q: %w", key, err)
	}
	return string(b), true, nil
}
