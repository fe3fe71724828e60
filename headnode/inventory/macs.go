package inventory

import (
	"slices"

	"nereid/api"
	"nereid/headnode/store"
)

// booted makes the boots from a MAC the server's. Those of another server stay
// that server's until an enrolment of this one is accepted.
func booted(tx store.Tx, r *Record, mac string) error {
	o, _, err := ownerOf(tx, mac)
	if err != nil {
		return err
	}
	if !slices.Contains(r.BootMACs, mac) {
		r.BootMACs = append(r.BootMACs, mac)
	}
	switch {
	case o.UUID == r.UUID && o.Boot:
		return nil
	case o.UUID == "" || o.UUID == r.UUID || r.accepted():
		if o.UUID != "" && o.UUID != r.UUID {
			if !o.Boot { // one that booted from it too stays known by it, where it says who it is
				if err := lose(tx, o.UUID, mac); err != nil {
					return err
				}
			}
			o.also(o.UUID)
		}
		o.UUID, o.Boot = r.UUID, true
		o.drop(r.UUID)
	default:
		o.also(r.UUID)
	}
	return store.Put(tx, MACPrefix+mac, o)
}

// lists takes in the NICs that an enrolment or a sync of a server lists. One that
// no other accepted server has identifies it from then on; one that several have
// identifies nobody. What a server lists that was not let in is only noted. was
// is what it listed before, nil: nothing. It gives the MACs that are not the
// server's any more.
func lists(tx store.Tx, r *Record, was *api.Sysinfo, all []nic) (gone []string, err error) {
	had := r.MACs
	if was != nil {
		had = append(slices.Clone(had), MACs(*was)...)
		slices.Sort(had)
		had = slices.Compact(had)
	}
	if r.accepted() { // what it booted from and does not have now is another's to boot from
		r.BootMACs = slices.DeleteFunc(slices.Clone(r.BootMACs), func(m string) bool {
			return !slices.ContainsFunc(all, func(n nic) bool { return n.mac == m })
		})
	}
	r.MACs = slices.Clone(r.BootMACs)
	for _, n := range all {
		if slices.Contains(r.BootMACs, n.mac) {
			continue
		}
		mine, err := r.list(tx, n)
		if err != nil {
			return nil, err
		}
		if mine {
			r.MACs = append(r.MACs, n.mac)
		}
	}
	slices.Sort(r.MACs)
	slices.Sort(r.BootMACs)
	for _, m := range had {
		if slices.Contains(r.MACs, m) {
			continue
		}
		listed := slices.ContainsFunc(all, func(n nic) bool { return n.mac == m })
		freed, err := leave(tx, m, r.UUID, listed)
		if err != nil {
			return nil, err
		}
		if freed {
			gone = append(gone, m)
		}
	}
	return gone, nil
}

// list notes that a server has a MAC and says whether it identifies it.
func (r *Record) list(tx store.Tx, n nic) (bool, error) {
	mac := n.mac
	o, _, err := ownerOf(tx, mac)
	if err != nil {
		return false, err
	}
	before := equalTo(o)
	mine := true
	switch {
	case !n.identifies: // known to be there, and proof of nothing
		mine = false
		if o.UUID == r.UUID {
			o.UUID, o.Boot = "", false
		}
		o.also(r.UUID)
	case o.UUID == r.UUID:
	case !r.accepted():
		mine = o.UUID == ""
		o.also(r.UUID)
	case o.UUID == "":
		shared, err := o.others(tx, r.UUID)
		if err != nil {
			return false, err
		}
		if mine = !shared; mine {
			o.UUID, o.Boot = r.UUID, false
			o.drop(r.UUID)
		} else {
			o.also(r.UUID)
		}
	case o.Boot: // the other was seen to boot from it
		mine = false
		o.also(r.UUID)
	default: // both only list it
		mine = false
		if err := lose(tx, o.UUID, mac); err != nil {
			return false, err
		}
		o.also(o.UUID)
		o.also(r.UUID)
		o.UUID = ""
	}
	if before(o) {
		return mine, nil
	}
	return mine, store.Put(tx, MACPrefix+mac, o)
}

// others says whether another server that was let in lists the MAC.
func (o Owner) others(tx store.Tx, but string) (bool, error) {
	for _, uuid := range o.Also {
		r, found, err := store.Lookup[Record](tx, ServerPrefix+uuid)
		if err != nil {
			return false, err
		}
		if found && uuid != but && r.accepted() {
			return true, nil
		}
	}
	return false, nil
}

func (o *Owner) also(uuid string) {
	if !slices.Contains(o.Also, uuid) {
		o.Also = append(o.Also, uuid)
	}
}

func (o *Owner) drop(uuid string) {
	o.Also = slices.DeleteFunc(o.Also, func(u string) bool { return u == uuid })
}

// equalTo remembers an owner as it is now.
func equalTo(o Owner) func(Owner) bool {
	uuid, boot, also := o.UUID, o.Boot, slices.Clone(o.Also)
	return func(now Owner) bool { return now.UUID == uuid && now.Boot == boot && slices.Equal(now.Also, also) }
}

// lose takes a MAC that a server only listed out of its record.
func lose(tx store.Tx, uuid, mac string) error {
	r, found, err := store.Lookup[Record](tx, ServerPrefix+uuid)
	if err != nil || !found {
		return err
	}
	r.MACs = slices.DeleteFunc(r.MACs, func(m string) bool { return m == mac })
	return Put(tx, r)
}

// leave ends a server's part in a MAC, but that it lists it when it does. It says
// whether the MAC was the server's own.
func leave(tx store.Tx, mac, uuid string, listed bool) (freed bool, err error) {
	o, found, err := ownerOf(tx, mac)
	if err != nil || !found {
		return false, err
	}
	if freed = o.UUID == uuid; freed {
		o.UUID, o.Boot = "", false
	}
	o.drop(uuid)
	if listed {
		o.also(uuid)
	}
	if o.UUID == "" && len(o.Also) == 0 {
		return freed, tx.Delete(MACPrefix + mac)
	}
	return freed, store.Put(tx, MACPrefix+mac, o)
}
