package inventory

import (
	"slices"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// Sync is one sync of a server, authenticated.
type Sync struct {
	Request api.SyncRequest
	Key     string    // SHA-256 of the client certificate's public key
	Started time.Time // of the boot that syncs

	// Set by Look.
	Has   string // digest of the report that is stored
	Lacks bool   // the report was left out, and is not the one that is stored
}

// digest is that of the report; empty: the agent names none.
func (s *Sync) digest() string { return s.Request.Digests[api.PartReport] }

// Seen says what a sync changed.
type Seen struct {
	Record        Record
	FirstOfBoot   bool // no sync of this boot was seen before
	NeedInventory bool
	Gone          []string // MACs that are not the server's any more
}

// Observe takes in a report. It writes only what changed.
func Observe(tx store.Tx, uuid string, s Sync) (Seen, error) {
	r, err := Get(tx, uuid)
	if err != nil {
		return Seen{}, err
	}
	o, err := getReport(tx, uuid)
	if err != nil {
		return Seen{}, err
	}
	before, beforeSeen := r, o
	rep := s.Request.Report
	out := Seen{}
	if r.BootID != rep.BootID || o.Report == nil || o.Report.BootID != rep.BootID {
		out.FirstOfBoot = true
		r.BootID, r.Booted = rep.BootID, s.Started
	}
	r.powerDone(rep)
	if rep.Setup != nil && rep.Setup.Complete && (r.Power == nil || r.Power.Action != "reset") {
		r.SetUp = true
	}
	if r.SetUp && r.Pin == "" && s.Key != "" {
		r.Pin = s.Key
	}
	o.Report, o.ReportDigest = &rep, s.digest()
	if inv := s.Request.Inventory; inv != nil {
		had, err := getHardware(tx, uuid)
		if err != nil {
			return Seen{}, err
		}
		if out.Gone, err = lists(tx, &r, had, nics(*inv)); err != nil {
			return Seen{}, err
		}
		if err := putHardware(tx, uuid, inv); err != nil {
			return Seen{}, err
		}
		o.Digest = s.Request.InventoryDigest
	}
	out.NeedInventory = o.Digest != s.Request.InventoryDigest
	if !equalJSON(before, r) {
		if err := Put(tx, r); err != nil {
			return Seen{}, err
		}
	}
	if !equalJSON(beforeSeen, o) {
		if err := putReport(tx, uuid, o); err != nil {
			return Seen{}, err
		}
	}
	out.Record = r
	return out, nil
}

// Look says whether Observe would write anything, so that a sync that brings nothing
// new costs no write, and whether the head node lacks the hardware of the sync's
// digest. It reads the report once, and no hardware. A report that the agent left out is
// filled in, or lacks: then there is nothing for Observe.
func Look(tx store.Tx, r Record, s *Sync) (news, need bool, err error) {
	o, err := getReport(tx, r.UUID)
	if err != nil {
		return false, false, err
	}
	need = o.Digest != s.Request.InventoryDigest
	s.Has, s.Lacks = o.ReportDigest, false
	digest := s.digest()
	same := o.Report != nil && digest == o.ReportDigest
	if s.Request.Report.BootID == "" && digest != "" { // it was left out
		if !same {
			s.Lacks = true
			return false, need, nil
		}
		s.Request.Report = *o.Report
	} else if same && digest == "" {
		same = equalJSON(*o.Report, s.Request.Report)
	}
	return !same || r.BootID != s.Request.Report.BootID || need && s.Request.Inventory != nil, need, nil
}

// powerDone clears a power request that a later boot shows to be over. A reset
// is over for the identity as soon as the pool is reported gone: the key on it
// is gone too.
func (r *Record) powerDone(rep api.Report) {
	p := r.Power
	if p == nil {
		return
	}
	gone := !slices.ContainsFunc(rep.Pools, func(x api.Pool) bool { return x.GUID == p.PoolGUID })
	taken := rep.Power != nil && rep.Power.ID == p.ID && rep.Power.Error == ""
	later := rep.BootID != p.BootID
	if p.Action == "reset" && gone && (taken || later) && (r.SetUp || r.Pin != "" || r.Setup != nil) {
		r.wiped()
		r.touch()
	}
	if later {
		r.Power = nil
		r.touch()
	}
}
