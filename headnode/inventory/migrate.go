package inventory

import (
	"slices"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// before is what records had before each machine had a record of its own.
type before struct {
	Record
	Claim *struct {
		MACs    []string    `json:"macs"`
		Sysinfo api.Sysinfo `json:"sysinfo"`
		BootID  string      `json:"boot_id"`
		Seen    time.Time   `json:"seen"`
	} `json:"claim,omitempty"`
	Refused []string `json:"refused,omitempty"`
}

// Migrate brings what an earlier release stored into the present form: keys lead
// to servers, and machines that claimed or were refused a known UUID get records
// of their own, with what an operator decided about them, and the hardware has a key
// of its own. Run again it changes nothing.
func Migrate(tx store.Tx) error {
	var old []before
	for e, err := range store.Each[before](tx, ServerPrefix) {
		if err != nil {
			return err
		}
		old = append(old, e.Value)
	}
	for _, b := range old {
		if err := hardwareApart(tx, b.UUID); err != nil {
			return err
		}
		if err := b.migrate(tx); err != nil {
			return err
		}
	}
	return nil
}

// hardwareApart gives the hardware of a server a key of its own.
func hardwareApart(tx store.Tx, uuid string) error {
	o, err := getReport(tx, uuid)
	if err != nil || o.Sysinfo == nil {
		return err
	}
	return PutObserved(tx, uuid, o)
}

func (b before) migrate(tx store.Tx) error {
	for _, key := range []string{b.Key, b.Pin} {
		if key == "" {
			continue
		}
		if has, err := store.Has(tx, keyPrefix+key); err != nil {
			return err
		} else if !has {
			if err := store.Put(tx, keyPrefix+key, b.UUID); err != nil {
				return err
			}
		}
	}
	if len(b.BootMACs) > 0 { // every record has one since
		return nil
	}
	b.BootMACs = b.MACs // which of them it booted from was not kept
	if err := Put(tx, b.Record); err != nil {
		return err
	}
	for _, m := range b.Refused {
		if err := b.apart(tx, []string{m}, nil, true); err != nil {
			return err
		}
	}
	if c := b.Claim; c != nil && len(c.MACs) > 0 {
		return b.apart(tx, c.MACs, &c.Sysinfo, false)
	}
	return nil
}

// apart gives a machine that claims the record's UUID a record of its own. MACs
// that belong to other servers stay theirs.
func (b before) apart(tx store.Tx, macs []string, info *api.Sysinfo, rejected bool) error {
	var its []string
	for _, m := range macs {
		o, _, err := ownerOf(tx, m)
		if err != nil {
			return err
		}
		if o.UUID == b.UUID && !slices.Contains(b.MACs, m) {
			its = append(its, m)
		}
	}
	if len(its) == 0 {
		return nil
	}
	f, claims := facts{mac: its[0]}, ""
	if u, ok := Usable(b.UUID); ok {
		f.claim, claims = u, u
	}
	r, err := newcomer(tx, b.Created, f, claims)
	if err != nil {
		return err
	}
	r.Rejected, r.MACs, r.BootMACs = rejected, its, its
	if rejected && claims != "" {
		if err := tx.Delete(claimKey(r)); err != nil {
			return err
		}
	}
	for _, m := range its {
		if err := store.Put(tx, MACPrefix+m, Owner{UUID: r.UUID, Boot: true}); err != nil {
			return err
		}
	}
	if info != nil {
		if err := PutObserved(tx, r.UUID, Observed{Sysinfo: info}); err != nil {
			return err
		}
	}
	return Put(tx, r)
}
