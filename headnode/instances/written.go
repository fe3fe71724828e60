package instances

import (
	"slices"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// Bounds of what a report says that an instance wrote.
const (
	maxWritten   = 512 // changes of one instance
	maxWrittenID = 64  // bytes
)

// Write takes in what instances of a server changed of their metadata from inside, in
// their order: what comes last counts, be it from an operator or from inside. A server
// names all that it keeps of an instance, so that what was taken in before is known by
// its id, and is not taken in again. What cannot be is left, and told of.
func Write(tx store.Tx, now time.Time, server string, all []api.MetadataChange) (t Taken, err error) {
	defer named(&err, "take in what instances of server %s wrote", server)
	by := map[string][]api.MetadataChange{}
	var order []string
	for _, c := range all {
		uuid, ok := parseUUID(c.Instance)
		if !ok || uuid != c.Instance || c.ID == "" || len(c.ID) > maxWrittenID || len(by[uuid]) == maxWritten {
			t.Ignored = append(t.Ignored, "a change of the metadata of "+text(c.Instance)+" is not one that an agent of ours reports")
			continue
		}
		if by[uuid] == nil {
			order = append(order, uuid)
		}
		by[uuid] = append(by[uuid], c)
	}
	for _, uuid := range order {
		r, found, err := store.Lookup[Record](tx, recordPrefix+uuid)
		if err != nil {
			return t, err
		}
		if !found || r.Server != server || r.Wanted == WantDeleted {
			t.Ignored = append(t.Ignored, "a change of the metadata of instance "+uuid+", which is not one of this server's")
			continue
		}
		changed, ignored, err := write(tx, now, &r, by[uuid])
		if err != nil {
			return t, err
		}
		t.Ignored = append(t.Ignored, ignored...)
		if changed {
			t.Changed = append(t.Changed, r)
		}
	}
	return t, nil
}

// write takes in what one instance wrote.
func write(tx store.Tx, now time.Time, r *Record, all []api.MetadataChange) (some bool, ignored []string, err error) {
	before, _, err := store.Lookup[[]string](tx, writtenPrefix+r.UUID)
	if err != nil {
		return false, nil, err
	}
	var ids []string
	var fresh []api.MetadataChange
	for _, c := range all {
		ids = append(ids, c.ID)
		if !slices.Contains(before, c.ID) {
			fresh = append(fresh, c)
		}
	}
	if len(fresh) == 0 {
		return false, nil, nil
	}
	spec, err := Spec(tx, *r)
	if err != nil {
		return false, nil, err
	}
	md := spec.Metadata
	for _, c := range fresh {
		have, is := scalar(md[c.Key])
		next := md
		switch {
		case c.Value == nil:
			next = changed(md, nil, nil, []string{c.Key})
		case !is || have != *c.Value: // else its type stays what it is
			next = changed(md, nil, map[string]any{c.Key: *c.Value}, nil)
		}
		if err := CheckMetadata(next); err != nil {
			ignored = append(ignored, "instance "+r.UUID+" changed its metadata: "+text(err.Error()))
			continue
		}
		md = next
	}
	if err := store.Put(tx, writtenPrefix+r.UUID, ids); err != nil {
		return false, nil, err
	}
	return true, ignored, edit(tx, r, func(r *Record, spec *api.InstanceSpec) error {
		spec.Metadata = md
		return did(tx, now, *r, "agent", "set_metadata")
	})
}
