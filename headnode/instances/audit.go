package instances

import (
	"slices"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// maxAudit is how many entries of an instance's audit are kept.
const maxAudit = 100

// ask adds to the audit what is asked of an instance. It is open until its server
// answers: to the id of the request, or by a state. The caller writes the record.
func ask(tx store.Tx, now time.Time, r *Record, by, action, id string) error {
	key, err := note(tx, *r, api.InstanceAudit{ID: newID(), Action: action, Asked: now.UTC(), By: by})
	if err == nil {
		r.Open = append(r.Open, open{Key: key, Action: action, ID: id})
	}
	return err
}

// did adds to the audit what was asked of an instance and is done.
func did(tx store.Tx, now time.Time, r Record, by, action string) error {
	_, err := note(tx, r, api.InstanceAudit{ID: newID(), Action: action, Asked: now.UTC(), By: by, Finished: now.UTC(), Success: true})
	return err
}

// note writes an entry, and drops the oldest ones that are too many.
func note(tx store.Tx, r Record, a api.InstanceAudit) (string, error) {
	prefix := auditPrefix + r.UUID + "/"
	var keys []string
	for it, err := range tx.Scan(prefix, "") {
		if err != nil {
			return "", err
		}
		keys = append(keys, it.Key)
	}
	for _, k := range keys[:max(0, len(keys)-maxAudit+1)] {
		if err := tx.Delete(k); err != nil {
			return "", err
		}
	}
	key := prefix + timeKey(a.Asked) + "-" + a.ID
	return key, store.Put(tx, key, a)
}

// finish ends the open entries of the audit that done is true for. fault is why they
// failed; empty: they did not. It says whether there were any; the caller writes the
// record.
func finish(tx store.Tx, now time.Time, r *Record, fault string, done func(open) bool) (bool, error) {
	some := false
	for _, o := range r.Open {
		if !done(o) {
			continue
		}
		some = true
		a, found, err := store.Lookup[api.InstanceAudit](tx, o.Key)
		if err != nil {
			return some, err
		}
		if !found {
			continue // it was too old to be kept
		}
		a.Finished, a.Success, a.Error = now.UTC(), fault == "", fault
		if err := store.Put(tx, o.Key, a); err != nil {
			return some, err
		}
	}
	if some {
		r.Open = slices.DeleteFunc(slices.Clone(r.Open), done)
	}
	return some, nil
}

// Audit lists what was asked of an instance, the newest first.
func Audit(tx store.Tx, uuid string) (out []api.InstanceAudit, err error) {
	defer named(&err, "read audit of instance %s", uuid)
	for e, err := range store.Each[api.InstanceAudit](tx, auditPrefix+uuid+"/") {
		if err != nil {
			return nil, err
		}
		out = append(out, e.Value)
	}
	slices.Reverse(out)
	return out, nil
}

// Why says why an instance is on its server.
func Why(tx store.Tx, uuid string) (p api.Placement, err error) {
	defer named(&err, "read placement of instance %s", uuid)
	p, found, err := store.Lookup[api.Placement](tx, placementPrefix+uuid)
	if err == nil && !found {
		err = missing(uuid)
	}
	return p, err
}

// Audited reports whether sessions of a kind are told of in the audit: those that see or
// drive a machine past its guest's own logins.
func Audited(kind string) bool {
	return kind == api.SessionScreen || kind == api.SessionScreenshot || kind == api.SessionNMI
}

// NoteSession adds to the audit a session that somebody has begun; key is for EndSession.
// One whose end nobody tells of, as the head node's came first, stays open.
func NoteSession(tx store.Tx, uuid, by, kind string, now time.Time) (key string, err error) {
	defer named(&err, "note session with instance %s", uuid)
	r, err := There(tx, "", uuid)
	if err != nil {
		return "", err
	}
	return note(tx, r, api.InstanceAudit{ID: newID(), Action: kind, Asked: now.UTC(), By: by})
}

// EndSession notes that a session is over, and why it failed; empty: it did not.
func EndSession(tx store.Tx, key, fault string, now time.Time) error {
	a, found, err := store.Lookup[api.InstanceAudit](tx, key)
	if err != nil || !found { // it was too old to be kept
		return err
	}
	a.Finished, a.Success, a.Error = now.UTC(), fault == "", fault
	return store.Put(tx, key, a)
}
