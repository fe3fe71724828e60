package instances

import (
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

// Delete has the server of an instance remove it: its key leaves the server's set, with
// a tombstone. The instance is there until the server says that nothing is left of it.
// Asked again it changes nothing.
func Delete(tx store.Tx, a Asked, r Record) (_ Record, err error) {
	defer named(&err, "delete instance %s", r.UUID)
	if r.Protected {
		return r, conflict("end that first, if it is to go: nereid instance unprotect "+r.UUID, "instance %s (%s) is protected from deletion", r.Name, r.UUID)
	}
	if r.Wanted == WantDeleted {
		return r, nil
	}
	spec, err := Spec(tx, r)
	if err != nil {
		return r, err
	}
	if _, err := finish(tx, a.Now, &r, "overtaken by a deletion", func(open) bool { return true }); err != nil {
		return r, err
	}
	if err := dropSnapshots(tx, r); err != nil {
		return r, err
	}
	r.Wanted, r.Metadata = WantDeleted, spec.Metadata
	if err := ask(tx, a.Now, &r, a.By, "destroy", ""); err != nil {
		return r, err
	}
	if err := put(tx, &r); err != nil {
		return r, err
	}
	_, err = journal.Delete(tx, Set(r.Server), r.UUID)
	return r, err
}

// Finish makes an instance that is to be deleted a deleted one: nothing is left of it
// on its server, or the server is lost. Its name and what it used of its server are
// free. The caller has freed its NICs.
func Finish(tx store.Tx, now time.Time, r Record) (_ Record, err error) {
	defer named(&err, "end instance %s", r.UUID)
	if _, err := finish(tx, now, &r, "", func(o open) bool { return o.Action == "destroy" }); err != nil {
		return r, err
	}
	if err := addUse(tx, r, -1); err != nil {
		return r, err
	}
	for _, k := range append(index(r), recordPrefix+r.UUID, statePrefix+r.UUID, writtenPrefix+r.UUID) {
		if err := tx.Delete(k); err != nil {
			return r, err
		}
	}
	if err := forgetSnapshots(tx, r.UUID); err != nil {
		return r, err
	}
	if err := dropImage(tx, r.Server, r.Image); err != nil {
		return r, err
	}
	r.State, r.Reason, r.Open, r.Segments = api.InstanceDeleted, "", nil, nil
	r.Deleted, r.Revision = now.UTC(), newID()
	if err := putRecord(tx, deletedPrefix+r.UUID, r); err != nil {
		return r, err
	}
	return r, tx.Put(expiryPrefix+timeKey(now)+"/"+r.UUID, nil)
}

// Clean forgets instances that were deleted before a time, the oldest first and at most
// n of them. It says how many it forgot.
func Clean(tx store.Tx, before time.Time, n int) (count int, err error) {
	defer named(&err, "forget deleted instances")
	var keys []string
	for it, err := range tx.Scan(expiryPrefix, "") {
		if err != nil {
			return 0, err
		}
		at, uuid, _ := strings.Cut(strings.TrimPrefix(it.Key, expiryPrefix), "/")
		if count == n || at >= timeKey(before) {
			break
		}
		count++
		keys = append(keys, it.Key, deletedPrefix+uuid, placementPrefix+uuid, stepsPrefix+uuid)
		for a, err := range tx.Scan(auditPrefix+uuid+"/", "") {
			if err != nil {
				return 0, err
			}
			keys = append(keys, a.Key)
		}
	}
	for _, k := range keys {
		if err := tx.Delete(k); err != nil {
			return 0, err
		}
	}
	return count, nil
}
