package inventory

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// Approve lets a server in. With a collision, mac says which of the machines it
// is; without one it is empty or one of the server's. MACs seen in this server
// that belong to others move to it. What the present state does not allow is an
// *api.Problem.
func Approve(tx store.Tx, now time.Time, r *Record, mac string) error {
	if r.Claim != nil {
		if mac == "" {
			return collision(*r)
		}
		if err := r.settle(tx, mac); err != nil {
			return err
		}
	} else if mac != "" && !slices.Contains(r.MACs, mac) {
		return problem(http.StatusConflict, api.CodeConflict,
			fmt.Sprintf("server %s has no MAC %s; it has %s", r.Hostname, mac, strings.Join(r.MACs, ", ")), "look at it with: nereid server get "+r.UUID)
	}
	for i := range r.Moves {
		if err := r.move(tx, now, &r.Moves[i]); err != nil {
			return err
		}
	}
	r.Moves = nil
	r.Lost = slices.DeleteFunc(r.Lost, func(m Move) bool { return m.Done })
	slices.Sort(r.MACs)
	r.MACs = slices.Compact(r.MACs)
	r.Approved, r.Rejected = true, false
	r.touch()
	return Put(tx, *r)
}

// settle ends a collision: the machine with the MAC is the server.
func (r *Record) settle(tx store.Tx, mac string) error {
	c := r.Claim
	winners, losers := r.MACs, c.MACs
	switch {
	case slices.Contains(r.MACs, mac):
	case slices.Contains(c.MACs, mac):
		winners, losers = c.MACs, r.MACs
		r.MACs = nil
		r.Key, r.Pin, r.Mismatch, r.SetUp, r.Setup, r.Power, r.BootID, r.Booted = "", "", nil, false, nil, nil, "", time.Time{}
		if err := PutObserved(tx, r.UUID, Observed{Sysinfo: &c.Sysinfo}); err != nil {
			return err
		}
	default:
		return problem(http.StatusConflict, api.CodeConflict,
			fmt.Sprintf("neither machine that claims the UUID %s has the MAC %s", r.UUID, mac), "take one of "+strings.Join(append(slices.Clone(r.MACs), c.MACs...), ", "))
	}
	r.Claim = nil
	r.Refused = slices.DeleteFunc(r.Refused, func(m string) bool { return slices.Contains(winners, m) })
	for _, m := range losers {
		o, found, err := OwnerOf(tx, m)
		if err != nil {
			return err
		}
		if found && o.UUID != r.UUID {
			continue // it belongs to another server all along
		}
		if err := own(tx, m, r.UUID, RoleRefused); err != nil {
			return err
		}
		r.Refused = append(r.Refused, m)
	}
	slices.Sort(r.Refused)
	r.Refused = slices.Compact(r.Refused)
	for _, m := range winners {
		o, found, err := OwnerOf(tx, m)
		if err != nil {
			return err
		}
		if found && o.UUID != r.UUID {
			r.Moves = append(r.Moves, Move{MAC: m, Other: o.UUID})
			continue
		}
		if err := own(tx, m, r.UUID, RoleOwned); err != nil {
			return err
		}
		r.MACs = append(r.MACs, m)
	}
	return nil
}

// move takes a MAC from the server it belongs to.
func (r *Record) move(tx store.Tx, now time.Time, m *Move) error {
	o, found, err := OwnerOf(tx, m.MAC)
	if err != nil {
		return err
	}
	if found && o.UUID != r.UUID {
		other, err := Get(tx, o.UUID)
		if err != nil {
			return err
		}
		other.MACs = slices.DeleteFunc(other.MACs, func(x string) bool { return x == m.MAC })
		other.Lost = slices.DeleteFunc(other.Lost, func(x Move) bool { return x.MAC == m.MAC })
		other.Lost = append(other.Lost, Move{MAC: m.MAC, Other: r.UUID, Seen: now, Done: true})
		if err := Put(tx, other); err != nil {
			return err
		}
	}
	r.MACs = append(r.MACs, m.MAC)
	return own(tx, m.MAC, r.UUID, RoleOwned)
}

// Reject refuses a server until it is approved.
func Reject(tx store.Tx, r *Record) error {
	if r.SetUp {
		return problem(http.StatusConflict, api.CodeConflict,
			fmt.Sprintf("server %s is set up and may hold data", r.Hostname), "reset or forget it first: nereid server reset "+r.Hostname)
	}
	r.Rejected, r.Approved, r.Key = true, false, ""
	r.touch()
	return Put(tx, *r)
}

// Rename gives a server another name.
func Rename(tx store.Tx, r *Record, name string) error {
	if err := CheckHostname(name); err != nil {
		return problem(http.StatusUnprocessableEntity, api.CodeInvalid, err.Error(), "choose another name")
	}
	owner, found, err := store.Lookup[string](tx, hostnamePrefix+name)
	if err != nil {
		return err
	}
	if found && owner != r.UUID {
		return problem(http.StatusConflict, api.CodeConflict, fmt.Sprintf("the name %s belongs to server %s", name, owner), "choose another name")
	}
	if r.Hostname == name {
		return nil
	}
	if err := takeHostname(tx, r, name); err != nil {
		return err
	}
	r.touch()
	return Put(tx, *r)
}

// Forget removes everything this package keeps of a server and gives the MACs
// that are free now, those of claims and refused machines included.
func Forget(tx store.Tx, r Record) ([]string, error) {
	macs := append(slices.Clone(r.MACs), r.Refused...)
	if r.Claim != nil {
		macs = append(macs, r.Claim.MACs...)
	}
	for _, m := range macs {
		if err := disown(tx, m, r.UUID); err != nil {
			return nil, err
		}
	}
	for _, other := range append(slices.Clone(r.Moves), r.Lost...) {
		if err := dropMoves(tx, other.Other, r.UUID); err != nil {
			return nil, err
		}
	}
	for _, key := range []string{hostnamePrefix + r.Hostname, observedPrefix + r.UUID, ServerPrefix + r.UUID} {
		if err := tx.Delete(key); err != nil {
			return nil, err
		}
	}
	slices.Sort(macs)
	return slices.Compact(macs), nil
}

// dropMoves removes what a record says about MACs shared with a server.
func dropMoves(tx store.Tx, uuid, gone string) error {
	r, found, err := store.Lookup[Record](tx, ServerPrefix+uuid)
	if err != nil || !found {
		return err
	}
	about := func(m Move) bool { return m.Other == gone }
	for _, m := range r.Moves {
		if m.Other == gone && !m.Done {
			r.MACs = append(r.MACs, m.MAC)
			if err := own(tx, m.MAC, uuid, RoleOwned); err != nil {
				return err
			}
		}
	}
	r.Moves, r.Lost = slices.DeleteFunc(r.Moves, about), slices.DeleteFunc(r.Lost, about)
	return Put(tx, r)
}

// AskSetup asks for a setup; the id is made here.
func AskSetup(tx store.Tx, r *Record, s api.SetupSpec) error {
	s.ID = NewRevision()
	if s.Pool == "" {
		s.Pool = "zones"
	}
	r.Setup = &s
	r.touch()
	return Put(tx, *r)
}

// AskPower asks for a reboot, shutdown or reset of the boot that syncs now.
func AskPower(tx store.Tx, r *Record, action, poolGUID string) error {
	r.Power = &api.PowerSpec{ID: NewRevision(), Action: action, BootID: r.BootID, PoolGUID: poolGUID}
	r.touch()
	return Put(tx, *r)
}

// AcceptKey forgets the pinned key and the setup that went with it, so that the
// server may enrol with another. Nothing on the server is touched.
func AcceptKey(tx store.Tx, r *Record) error {
	r.wiped()
	r.touch()
	return Put(tx, *r)
}

// wiped is a server whose pool is gone.
func (r *Record) wiped() {
	r.Pin, r.Mismatch, r.SetUp, r.Setup = "", nil, false, nil
}

func equalJSON(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// Touch gives a server a new revision: something that is wanted of it changed
// elsewhere.
func Touch(tx store.Tx, r *Record) error {
	r.touch()
	return Put(tx, *r)
}
