package inventory

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// Enrolment is what was observed of a booted machine, and what it says of itself.
// The token was checked before: Boot, MAC and Started are of the boot it was
// minted for.
type Enrolment struct {
	BootID  string
	BootMAC string
	Started time.Time // of the boot
	Sysinfo api.Sysinfo
	Key     string // SHA-256 of the public key that asks for a certificate

	// Syncing says whether a server's key syncs now. Nil: none does.
	Syncing func(Record) bool
}

// Outcome is what becomes of an enrolment. Exactly one of Granted, Waits and
// Refused says so.
type Outcome struct {
	Record  Record // of the server that the machine is; zero when it is refused as none
	Granted bool
	Waits   string       // why there is no certificate yet
	Refused *api.Problem // why there will be none
	Gone    []string     // MACs that are not the server's any more
}

// Enrol says which server a machine is, makes the record of a newcomer, and
// decides whether the machine may have a certificate. Of an enrolment that is
// refused, only the key enters the record of a server that was let in. The
// transaction is to be committed in every case without an error.
func Enrol(tx store.Tx, now time.Time, e Enrolment) (Outcome, error) {
	f := facts{mac: e.BootMAC, key: e.Key, claim: claimOf(e.Sysinfo), nics: nics(e.Sysinfo)}
	if !slices.ContainsFunc(f.nics, func(n nic) bool { return n.mac == e.BootMAC }) {
		return Outcome{Refused: problem(http.StatusUnprocessableEntity, api.CodeInvalid,
			fmt.Sprintf("the hardware this server lists has no network interface with the MAC %s it booted from", e.BootMAC),
			"look at the agent's log on the server's console")}, nil
	}
	if err := f.gather(tx); err != nil {
		return Outcome{}, err
	}
	known, claims := f.who()
	var r Record
	if known != nil {
		r = *known
	} else {
		var err error
		if r, err = newcomer(tx, now, f, claims); err != nil {
			return Outcome{}, err
		}
	}
	o, err := GetObserved(tx, r.UUID)
	if err != nil {
		return Outcome{}, err
	}
	rivals, err := Claimants(tx, r.UUID)
	if err != nil {
		return Outcome{}, err
	}
	s := standing{syncing: e.Syncing != nil && e.Syncing(r), went: went(r, o)}
	s.contested = Contested(r, rivals, s.syncing)
	return settle(tx, now, r, o, e, f, rivals, judge(r, e, s))
}

// gather reads the records that the facts lead to.
func (f *facts) gather(tx store.Tx) error {
	one := func(uuid string) (*Record, error) {
		r, found, err := store.Lookup[Record](tx, ServerPrefix+uuid)
		if err != nil || !found {
			return nil, err
		}
		return &r, nil
	}
	o, _, err := ownerOf(tx, f.mac)
	if err != nil {
		return err
	}
	if o.UUID != "" {
		if f.byMAC, err = one(o.UUID); err != nil {
			return err
		}
	}
	for _, uuid := range o.Also {
		if r, err := one(uuid); err != nil {
			return err
		} else if r != nil {
			f.also = append(f.also, r)
			if err := f.listed(tx, r); err != nil {
				return err
			}
		}
	}
	if f.claim != "" {
		if f.byUUID, err = one(f.claim); err != nil {
			return err
		}
	}
	uuid, found, err := store.Lookup[string](tx, keyPrefix+f.key)
	if err != nil || !found {
		return err
	}
	r, err := one(uuid)
	if r != nil && r.holds(f.key) {
		f.byKey = r
	}
	return err
}

// listed reads what a server that was not let in listed.
func (f *facts) listed(tx store.Tx, r *Record) error {
	if r.Approved || r.accepted() {
		return nil
	}
	o, err := GetObserved(tx, r.UUID)
	if err != nil || o.Sysinfo == nil {
		return err
	}
	if f.waitsWith == nil {
		f.waitsWith = map[string][]string{}
	}
	f.waitsWith[r.UUID] = MACs(*o.Sysinfo)
	return nil
}

// newcomer makes the record of a server nobody knows. One without a UUID of its
// own gets one that is made from the MAC it booted from.
func newcomer(tx store.Tx, now time.Time, f facts, claims string) (Record, error) {
	r := Record{UUID: f.claim, Created: now, Claims: claims}
	if f.claim == "" || claims != "" {
		r.SMBIOS = f.claim
		for n, taken := 0, true; taken; n++ {
			var err error
			r.UUID = MadeUUID(f.mac, n)
			if taken, err = store.Has(tx, ServerPrefix+r.UUID); err != nil {
				return r, err
			}
		}
	}
	name, err := newHostname(tx, f.mac)
	if err != nil {
		return r, err
	}
	if err := takeHostname(tx, &r, name); err != nil {
		return r, err
	}
	r.touch()
	if claims != "" {
		if err := tx.Put(claimKey(r), nil); err != nil {
			return r, err
		}
	}
	return r, nil
}

// settle writes what a verdict changes, and says it.
func settle(tx store.Tx, now time.Time, r Record, o Observed, e Enrolment, f facts, rivals []Record, v verdict) (Outcome, error) {
	before := r
	out := Outcome{}
	if v == explained {
		if r.Power.Action == "reset" {
			r.wiped()
		}
		r.Power, v = nil, grants
		r.touch()
	}
	// What was not let in has a record of its own to be looked at. What was let in
	// keeps its record as it is until its key comes.
	take := v == grants || !r.Approved && !r.accepted()
	switch v {
	case grants:
		if r.Key != e.Key {
			if err := moveKey(tx, r.Key, e.Key, r); err != nil {
				return out, err
			}
		}
		r.Key, r.Presented, out.Granted = e.Key, nil, true
	case mismatch:
		if r.Presented == nil || r.Presented.Key != e.Key || r.Presented.BootID != e.BootID {
			r.Presented = &Presented{Key: e.Key, MAC: e.BootMAC, BootID: e.BootID, Seen: now}
		}
		out.Refused = otherKey(r)
	case collides:
		out.Refused = collision(r, rivals)
	case waits:
		out.Waits = waiting(r)
	}
	if take {
		if !out.Granted && (r.Presented == nil || r.Presented.Key != e.Key || r.Presented.BootID != e.BootID) {
			var old string
			if r.Presented != nil {
				old = r.Presented.Key
			}
			if err := moveKey(tx, old, e.Key, r); err != nil {
				return out, err
			}
			r.Presented = &Presented{Key: e.Key, MAC: e.BootMAC, BootID: e.BootID, Seen: now}
		}
		if !r.Approved && r.BootID != e.BootID {
			r.BootID, r.Booted = e.BootID, e.Started
		}
		if f.claim != "" && f.claim != r.UUID {
			r.SMBIOS = f.claim
		}
		if err := booted(tx, &r, e.BootMAC); err != nil {
			return out, err
		}
		var err error
		if out.Gone, err = lists(tx, &r, o.Sysinfo, f.nics); err != nil {
			return out, err
		}
		if o.Sysinfo == nil || !equalJSON(*o.Sysinfo, e.Sysinfo) {
			o.Sysinfo, o.Digest = &e.Sysinfo, ""
			if err := PutObserved(tx, r.UUID, o); err != nil {
				return out, err
			}
		}
	}
	out.Record = r
	if equalJSON(before, r) {
		return out, nil
	}
	return out, Put(tx, r)
}

// moveKey makes a key lead to a server instead of its key before.
func moveKey(tx store.Tx, old, key string, r Record) error {
	if old != "" && old != r.Pin && old != key {
		if err := dropKey(tx, old, r.UUID); err != nil {
			return err
		}
	}
	return store.Put(tx, keyPrefix+key, r.UUID)
}

// dropKey ends that a key leads to a server.
func dropKey(tx store.Tx, key, uuid string) error {
	to, found, err := store.Lookup[string](tx, keyPrefix+key)
	if err != nil || !found || to != uuid {
		return err
	}
	return tx.Delete(keyPrefix + key)
}

// Claimants lists the machines that claim a server's UUID and wait for an
// operator's decision.
func Claimants(tx store.Tx, uuid string) ([]Record, error) {
	all, err := ClaimantsOf(tx, []string{uuid})
	return all[uuid], err
}

// ClaimantsOf is Claimants for servers in the order of their UUIDs, by UUID.
func ClaimantsOf(tx store.Tx, uuids []string) (map[string][]Record, error) {
	var keys, claimed []string
	for it, err := range store.ScanOf(tx, claimPrefix, uuids) {
		if err != nil {
			return nil, fmt.Errorf("list claims: %w", err)
		}
		uuid, claimant, _ := strings.Cut(it.Key[len(claimPrefix):], "/")
		keys, claimed = append(keys, ServerPrefix+claimant), append(claimed, uuid)
	}
	recs, err := store.LookupAll[Record](tx, keys...)
	if err != nil {
		return nil, fmt.Errorf("read claimants: %w", err)
	}
	out := map[string][]Record{}
	for i, r := range recs {
		if r != nil {
			out[claimed[i]] = append(out[claimed[i]], *r)
		}
	}
	return out, nil
}

// Contested says whether a server is held because others claim its UUID: neither
// a key on its pool nor one that syncs tells which it is.
func Contested(r Record, claimants []Record, syncing bool) bool {
	return len(claimants) > 0 && r.Pin == "" && !syncing
}

// waiting says why a server that enrolled has no certificate.
func waiting(r Record) string {
	if r.Rejected {
		return "an operator rejected this server; let it in with: nereid server approve " + r.UUID
	}
	return "waits for an operator's approval: nereid server approve " + r.UUID
}

func otherKey(r Record) *api.Problem {
	return problem(http.StatusForbidden, api.CodeKeyMismatch,
		fmt.Sprintf("server %s presents another key than %s", r.Hostname, r.keyPlace()),
		"find out which machine boots from "+r.Presented.MAC+"; if it is that server, and has lost its key, accept the new one with: nereid server accept-key "+r.Hostname)
}

// keyPlace says where a server's key is.
func (r *Record) keyPlace() string {
	if r.Pin != "" {
		return "the one kept on its pool"
	}
	return "the one it was let in with, which was in RAM only"
}

// collision is what a machine is told that claims a UUID which others claim too.
func collision(r Record, rivals []Record) *api.Problem {
	if r.Claims != "" {
		detail := fmt.Sprintf("this machine, with %s, claims the SMBIOS UUID %s, which is another server's", strings.Join(r.MACs, ", "), r.Claims)
		if r.Rejected {
			return problem(http.StatusConflict, api.CodeUUIDCollision, detail+", and an operator rejected it",
				"give this machine another UUID in its firmware, or let it in as a server of its own with: nereid server approve "+r.Hostname)
		}
		return problem(http.StatusConflict, api.CodeUUIDCollision, detail, claimNext(r))
	}
	return problem(http.StatusConflict, api.CodeUUIDCollision,
		fmt.Sprintf("two machines claim the SMBIOS UUID %s: one with %s, one with %s; both are held", r.UUID, strings.Join(r.MACs, ", "), macsOf(rivals)),
		"decide which it is with: nereid server approve "+r.UUID+" --mac MAC")
}

// claimNext says how a machine that claims a known server's UUID is decided about.
func claimNext(r Record) string {
	return "let it in as a server of its own with: nereid server approve " + r.Hostname +
		"; if it is the server it says, with other hardware: nereid server accept-key " + r.Claims + " --mac " + firstMAC(r)
}

func firstMAC(r Record) string {
	if len(r.BootMACs) > 0 {
		return r.BootMACs[0]
	}
	return "MAC"
}

func macsOf(rs []Record) string {
	var out []string
	for _, r := range rs {
		out = append(out, r.MACs...)
	}
	return strings.Join(out, ", ")
}

func problem(status int, code api.Code, detail, next string) *api.Problem {
	return &api.Problem{Title: http.StatusText(status), Status: status, Code: code, Detail: detail, Next: next}
}
