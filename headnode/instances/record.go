package instances

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

// Wanted states of an instance.
const (
	WantRunning = "running"
	WantStopped = "stopped"
	WantDeleted = "deleted"
)

// Record is what is stored of an instance besides what its server reported. Of one that
// is there, its metadata is in its spec.
type Record struct {
	api.Instance
	Open     []open         `json:"open,omitempty"`     // what was asked of it and is not done
	Segments map[string]int `json:"segments,omitempty"` // its NICs by layer-2 segment
	Rolled   []string       `json:"rolled,omitempty"`   // ids of the snapshots that its last rollback was to destroy
}

// open is an entry of the audit that has no end yet.
type open struct {
	Key    string `json:"key"`
	Action string `json:"action"`
	ID     string `json:"id,omitempty"` // of the request, which its server names when it is done
}

// Observed is what its server reported of an instance.
type Observed struct {
	State   string    `json:"state"`
	Reason  string    `json:"reason,omitempty"`
	Until   time.Time `json:"until,omitzero"`
	Started time.Time `json:"started,omitzero"`
	Made    bool      `json:"made,omitempty"`
}

// get reads the record of an instance that is there.
func get(tx store.Tx, uuid string) (Record, error) {
	r, found, err := store.Lookup[Record](tx, recordPrefix+uuid)
	if err == nil && !found {
		err = missing(uuid)
	}
	return r, err
}

// Find reads an instance by UUID, whether it is there or deleted, or by the name of one
// that is there. owner may be empty; a name that instances of several accounts have
// then names none of them.
func Find(tx store.Tx, owner, id string) (_ Record, err error) {
	defer named(&err, "read instance %.64s", id)
	uuid, isUUID := parseUUID(id)
	if !isUUID {
		if uuid, err = byName(tx, strings.ToLower(owner), id); err != nil {
			return Record{}, err
		}
	}
	r, found, err := store.Lookup[Record](tx, recordPrefix+uuid)
	if err == nil && !found {
		r, found, err = store.Lookup[Record](tx, deletedPrefix+uuid)
	}
	if err == nil && !found {
		err = missing(id)
	}
	return r, err
}

// There reads an instance that is not deleted, as Find does.
func There(tx store.Tx, owner, id string) (Record, error) {
	r, err := Find(tx, owner, id)
	if err == nil && r.State == api.InstanceDeleted {
		err = refuse(410, api.CodeNotFound, "make another one", "instance %s (%s) was deleted at %s", r.Name, r.UUID, r.Deleted.UTC().Format(time.RFC3339))
	}
	return r, err
}

func byName(tx store.Tx, owner, name string) (string, error) {
	if !nameRE.MatchString(name) {
		return "", missing(name)
	}
	if owner != "" {
		uuid, found, err := store.Lookup[string](tx, namePrefix+name+"/"+owner)
		if err == nil && !found {
			err = missing(name)
		}
		return uuid, err
	}
	var found, said []string
	for e, err := range store.Each[string](tx, namePrefix+name+"/") {
		if err != nil {
			return "", err
		}
		found = append(found, e.Value)
		said = append(said, e.Value+" of account "+strings.TrimPrefix(e.Key, namePrefix+name+"/"))
		if len(found) == 20 {
			break
		}
	}
	switch len(found) {
	case 0:
		return "", missing(name)
	case 1:
		return found[0], nil
	}
	return "", &api.Problem{Title: "Conflict", Status: 409, Code: api.CodeConflict, Errors: said,
		Detail: fmt.Sprintf("instances of several accounts have the name %s", name), Next: "name it by UUID"}
}

// put writes a record with a new revision.
func put(tx store.Tx, r *Record) error {
	r.Revision = newID()
	stored := *r
	if r.Wanted != WantDeleted {
		stored.Metadata, stored.Internal = nil, nil // they are in the spec
	}
	return putRecord(tx, recordPrefix+r.UUID, stored)
}

// Spec reads what is wanted of an instance that is there.
func Spec(tx store.Tx, r Record) (spec api.InstanceSpec, err error) {
	defer named(&err, "read spec of instance %s", r.UUID)
	e, found, err := journal.Get(tx, api.InstanceSet(r.Server), r.UUID)
	if err != nil {
		return spec, err
	}
	if !found { // it is being deleted: the tombstone has what was wanted last
		return spec, nil
	}
	if err := json.Unmarshal(e.Value, &spec); err != nil {
		return spec, fmt.Errorf("decode: %w", err)
	}
	return spec, nil
}

// putSpec writes what is wanted of an instance into its server's set.
func putSpec(tx store.Tx, server string, spec api.InstanceSpec) error {
	value, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("spec of instance %s: %w", spec.UUID, err)
	}
	_, err = journal.Put(tx, Set(server), spec.UUID, value)
	return err
}

// edit changes an instance that is there, and what is wanted of it, and writes both.
func edit(tx store.Tx, r *Record, fn func(*Record, *api.InstanceSpec) error) error {
	if r.Wanted == WantDeleted {
		return conflict("wait until it is gone: nereid instance get "+r.UUID, "instance %s (%s) is being deleted", r.Name, r.UUID)
	}
	spec, err := Spec(tx, *r)
	if err != nil {
		return err
	}
	if err := fn(r, &spec); err != nil {
		return err
	}
	if err := put(tx, r); err != nil {
		return err
	}
	return putSpec(tx, r.Server, spec)
}

// Load fills in what is not in the record: the metadata, and what its server reported.
func Load(tx store.Tx, r Record) (_ api.Instance, err error) {
	defer named(&err, "read instance %s", r.UUID)
	if r.State == api.InstanceDeleted {
		return r.Instance, nil
	}
	o, _, err := store.Lookup[Observed](tx, statePrefix+r.UUID)
	if err != nil {
		return r.Instance, err
	}
	if r.Wanted != WantDeleted {
		spec, err := Spec(tx, r)
		if err != nil {
			return r.Instance, err
		}
		r.Metadata, r.Internal = spec.Metadata, spec.Internal
	}
	return shown(r, o), nil
}

// shown is an instance with what its server reported.
func shown(r Record, o Observed) api.Instance {
	o = told(r.Wanted, o)
	out := r.Instance
	out.State, out.Reason, out.Until, out.Started = o.State, o.Reason, o.Until, o.Started
	return out
}

// told is what a server reported of an instance, beside what is wanted of it.
func told(wanted string, o Observed) Observed {
	switch {
	case wanted == WantDeleted:
		o.State = api.InstanceStopping
		if o.Reason == "" {
			o.Reason = "it is to be deleted, and waits for its server to say that nothing of it is left"
		}
	case wanted == WantStopped && o.State == api.InstanceRunning:
		o.State = api.InstanceStopping
		if o.Reason == "" {
			o.Reason = "it is to stop, and its server has not answered yet"
		}
	case wanted == WantRunning && o.State == api.InstanceStopped && o.Reason == "":
		o.Reason = "it is to run, and its server has not started it yet"
	}
	return o
}
