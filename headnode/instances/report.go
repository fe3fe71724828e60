package instances

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"nereid/api"
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

// Bounds of what a server may report.
const (
	maxUnexpected = 1024     // instances of a server that it was not told of
	maxReason     = 512      // bytes
	maxSpec       = 64 << 10 // bytes of metadata in the spec of one that is unexpected
)

// NotKnown is why an instance is unexpected that may be adopted.
const NotKnown = "the head node does not know it"

// Taken is what a report changed.
type Taken struct {
	Changed    []Record
	Unexpected []api.UnexpectedInstance // new ones
	Strange    []api.UnexpectedInstance // all of them
	Known      []string                 // that were unexpected before
	Ignored    []string                 // why statuses were not taken in, one sentence each
}

// News gives those statuses of a report of a server that Take would write something
// for, so that a report which brings nothing new costs no write.
func News(tx store.Tx, server string, put []api.InstanceStatus) (out []api.InstanceStatus, err error) {
	defer named(&err, "compare a report of server %s", server)
	for len(put) > 0 {
		some := put[:min(batch, len(put))]
		put = put[len(some):]
		keys := make([]string, 0, 3*len(some))
		for _, st := range some {
			keys = append(keys, recordPrefix+st.UUID, statePrefix+st.UUID, unexpectedPrefix+server+"/"+st.UUID)
		}
		values, err := tx.GetAll(keys...)
		if err != nil {
			return nil, err
		}
		for i, st := range some {
			news, err := isNews(tx, server, st, values[3*i] != nil, values[3*i+1] != nil, values[3*i+2] != nil)
			if err != nil {
				return nil, err
			}
			if news {
				out = append(out, st)
			}
		}
	}
	return out, nil
}

func isNews(tx store.Tx, server string, st api.InstanceStatus, there, reported, unexpected bool) (bool, error) {
	if !there || !reported {
		u, _, err := store.Lookup[api.UnexpectedInstance](tx, unexpectedPrefix+server+"/"+st.UUID)
		return err != nil || !unexpected || !reflect.DeepEqual(u.Instance, bounded(st)), err
	}
	r, err := get(tx, st.UUID)
	if err != nil {
		return false, err
	}
	o, err := observed(tx, st.UUID)
	return err != nil || r.Server != server || o != of(st) || len(st.Done)+len(st.Steps) > 0 || unexpected || len(r.Open) > 0, err
}

// of is what is stored of a status.
func of(st api.InstanceStatus) Observed {
	return Observed{State: st.State, Reason: text(st.Reason), Until: st.Until.UTC(), Started: st.Started.UTC(), Made: st.Made}
}

// text is a sentence of a server, which may say anything.
func text(s string) string {
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "")
	}
	return s
}

// states are those that a server may report.
var states = []string{api.InstanceProvisioning, api.InstanceRunning, api.InstanceStopping, api.InstanceStopped, api.InstanceFailed}

// Take takes in statuses of a server's report. A status of an instance that is on
// another server, or that is not known, is no status of ours: it is kept as unexpected.
func Take(tx store.Tx, now time.Time, server string, put []api.InstanceStatus) (t Taken, err error) {
	defer named(&err, "take in a report of server %s", server)
	for _, st := range put {
		uuid, ok := parseUUID(st.UUID)
		if !ok || uuid != st.UUID || !slices.Contains(states, st.State) {
			t.Ignored = append(t.Ignored, "a status of "+text(st.UUID)+" in state "+text(st.State)+" is not one that an agent of ours reports")
			continue
		}
		r, found, err := store.Lookup[Record](tx, recordPrefix+uuid)
		if err != nil {
			return t, err
		}
		if !found || r.Server != server {
			why := NotKnown
			if found {
				why = "the head node has it on server " + r.Server
				t.Ignored = append(t.Ignored, "a status of instance "+uuid+", which is on server "+r.Server)
			} else if was, deleted, err := store.Lookup[Record](tx, deletedPrefix+uuid); err != nil {
				return t, err
			} else if deleted && was.Server == server {
				why = "it was deleted at " + was.Deleted.Format(time.RFC3339)
			}
			u := api.UnexpectedInstance{Server: server, Instance: bounded(st), Why: why}
			isNew, err := putUnexpected(tx, u)
			if err != nil {
				return t, err
			}
			if isNew {
				t.Unexpected = append(t.Unexpected, u)
			}
			t.Strange = append(t.Strange, u)
			continue
		}
		was, err := store.Has(tx, unexpectedPrefix+server+"/"+uuid)
		if err == nil && was {
			t.Known = append(t.Known, uuid)
			err = Forget(tx, server, []string{uuid})
		}
		if err != nil {
			return t, err
		}
		changed, err := observe(tx, now, &r, st)
		if err != nil {
			return t, err
		}
		if changed {
			t.Changed = append(t.Changed, r)
		}
	}
	return t, nil
}

// observe takes in the status of an instance of ours.
func observe(tx store.Tx, now time.Time, r *Record, st api.InstanceStatus) (bool, error) {
	before, err := observed(tx, r.UUID)
	if err != nil {
		return false, err
	}
	o := of(st)
	if o != before {
		if err := store.Put(tx, statePrefix+r.UUID, o); err != nil {
			return false, err
		}
	}
	if len(st.Steps) > 0 {
		if err := store.Put(tx, stepsPrefix+r.UUID, boundedSteps(st.Steps)); err != nil {
			return false, err
		}
	}
	var ended bool
	if r.Wanted != WantDeleted {
		spec, err := Spec(tx, *r)
		if err != nil {
			return false, err
		}
		was := spec
		if ended, err = rolledBack(tx, Asked{Now: now}, r, &spec, st); err != nil {
			return false, err
		}
		spec.Made = spec.Made || st.Made
		for _, id := range st.Done {
			if id == spec.Reboot {
				spec.Reboot = ""
			}
			if id == spec.Force {
				spec.Force = ""
			}
			if spec.Signal != nil && id == spec.Signal.ID {
				spec.Signal = nil
			}
		}
		if !reflect.DeepEqual(was, spec) {
			if err := putSpec(tx, r.Server, spec); err != nil {
				return false, err
			}
		}
	}
	over, err := ends(tx, now, r, o, st.Done)
	if err != nil {
		return false, err
	}
	ended = ended || over
	if ended { // the revision stays: what is wanted is the same
		if err := putRecord(tx, recordPrefix+r.UUID, *r); err != nil {
			return false, err
		}
	}
	return o != before || ended, nil
}

// ends ends what was asked of an instance and what a state, or a request's id, says to
// be over.
func ends(tx store.Tx, now time.Time, r *Record, o Observed, done []string) (bool, error) {
	over := map[string]string{ // by action: the state that it is over in
		"provision": r.Wanted, "start": api.InstanceRunning, "stop": api.InstanceStopped,
	}
	good, err := finish(tx, now, r, "", func(x open) bool {
		return x.ID == "" && over[x.Action] == o.State || x.ID != "" && slices.Contains(done, x.ID)
	})
	if err != nil || o.State != api.InstanceFailed {
		return good, err
	}
	bad, err := finish(tx, now, r, o.Reason, func(x open) bool { return slices.Contains([]string{"provision", "start", "reboot"}, x.Action) })
	return good || bad, err
}

// bounded is a status of an unexpected instance as it is kept.
func bounded(st api.InstanceStatus) api.InstanceStatus {
	st.Reason, st.Done, st.Steps = text(st.Reason), nil, nil
	if st.Spec != nil {
		spec := *st.Spec
		n := 0
		for _, md := range []map[string]any{spec.Metadata, spec.Internal} {
			for k, v := range md {
				s, _ := scalar(v)
				n += len(k) + len(s)
			}
		}
		if n > maxSpec {
			spec.Metadata, spec.Internal = nil, nil
		}
		st.Spec = &spec
	}
	return st
}

// putUnexpected keeps an unexpected instance; it says whether it is a new one.
func putUnexpected(tx store.Tx, u api.UnexpectedInstance) (bool, error) {
	prefix := unexpectedPrefix + u.Server + "/"
	has, err := store.Has(tx, prefix+u.Instance.UUID)
	if err != nil {
		return false, err
	}
	if !has {
		n := 0
		for _, err := range tx.Scan(prefix, "") {
			if err != nil {
				return false, err
			}
			if n++; n >= maxUnexpected {
				return false, nil
			}
		}
	}
	return !has, store.Put(tx, prefix+u.Instance.UUID, u)
}

// Unexpected lists what a server has and was not told of, by UUID; without a server,
// what any has.
func Unexpected(tx store.Tx, server string) (out []api.UnexpectedInstance, err error) {
	defer named(&err, "list unexpected instances")
	prefix := unexpectedPrefix
	if server != "" {
		prefix += server + "/"
	}
	for e, err := range store.Each[api.UnexpectedInstance](tx, prefix) {
		if err != nil {
			return nil, err
		}
		out = append(out, e.Value)
	}
	return out, nil
}

// UnexpectedOn is Unexpected for servers in the order of their UUIDs, by UUID.
func UnexpectedOn(tx store.Tx, servers []string) (_ map[string][]api.UnexpectedInstance, err error) {
	defer named(&err, "list unexpected instances")
	out := map[string][]api.UnexpectedInstance{}
	for it, err := range store.ScanOf(tx, unexpectedPrefix, servers) {
		if err != nil {
			return nil, err
		}
		var u api.UnexpectedInstance
		if err := json.Unmarshal(it.Value, &u); err != nil {
			return nil, fmt.Errorf("decode %q: %w", it.Key, err)
		}
		server, _, _ := strings.Cut(it.Key[len(unexpectedPrefix):], "/")
		out[server] = append(out[server], u)
	}
	return out, nil
}

// FindUnexpected finds one by its UUID, or by a name that one of them has.
func FindUnexpected(tx store.Tx, id string) (u api.UnexpectedInstance, err error) {
	defer named(&err, "find unexpected instance %.64s", id)
	all, err := Unexpected(tx, "")
	if err != nil {
		return u, err
	}
	var found []api.UnexpectedInstance
	for _, u := range all {
		if strings.EqualFold(u.Instance.UUID, id) || u.Instance.Spec != nil && u.Instance.Spec.Name == id {
			found = append(found, u)
		}
	}
	switch len(found) {
	case 0:
		return u, refuse(http.StatusNotFound, api.CodeNotFound, "list them with: nereid instance list --unexpected", "no server has an instance %.64q that is not known", id)
	case 1:
		return found[0], nil
	}
	return u, conflict("name it by UUID; one that several servers have is to be removed from the others first", "%d instances that are not known are %.64q", len(found), id)
}

// Left gives what of a server's report says that nothing is left of instances: of
// unexpected ones, which are then forgotten by Forget, and of those that are to be
// deleted, which the caller is to Finish. A full report says it of all that it does not
// name, once the server has their tombstones.
func Left(tx store.Tx, server string, rep api.InstanceReport) (finish []Record, forget []string, err error) {
	defer named(&err, "compare a report of server %s", server)
	gone := slices.Clone(rep.Gone)
	if rep.Full {
		named := map[string]bool{}
		for _, st := range rep.Put {
			named[st.UUID] = true
		}
		for t, err := range journal.Gone(tx, api.InstanceSet(server)) {
			if err != nil {
				return nil, nil, err
			}
			named[t.Key] = true // the server may not have heard of it
		}
		for r, err := range onServer(tx, server) {
			if err != nil {
				return nil, nil, err
			}
			if r.Wanted == WantDeleted && !named[r.UUID] {
				gone = append(gone, r.UUID)
			}
		}
		for it, err := range tx.Scan(unexpectedPrefix+server+"/", "") {
			if err != nil {
				return nil, nil, err
			}
			if uuid := it.Key[len(it.Key)-36:]; !named[uuid] {
				forget = append(forget, uuid)
			}
		}
	}
	slices.Sort(gone)
	for _, uuid := range slices.Compact(gone) {
		r, found, err := store.Lookup[Record](tx, recordPrefix+uuid)
		if err != nil {
			return nil, nil, err
		}
		if found && r.Server == server && r.Wanted == WantDeleted {
			finish = append(finish, r)
			continue
		}
		has, err := store.Has(tx, unexpectedPrefix+server+"/"+uuid)
		if err != nil {
			return nil, nil, err
		}
		if has && !slices.Contains(forget, uuid) {
			forget = append(forget, uuid)
		}
	}
	return finish, forget, nil
}

// Forget forgets unexpected instances of a server.
func Forget(tx store.Tx, server string, uuids []string) error {
	for _, u := range uuids {
		if err := tx.Delete(unexpectedPrefix + server + "/" + u); err != nil {
			return err
		}
	}
	return nil
}
