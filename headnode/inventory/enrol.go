package inventory

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// Enrolment is what a booted machine says of itself. The token was checked
// before: Boot, MAC and Started are of the boot it was minted for.
type Enrolment struct {
	UUID    string
	BootID  string
	BootMAC string
	Started time.Time // of the boot
	Sysinfo api.Sysinfo
	Key     string // SHA-256 of the public key that asks for a certificate
}

// Outcome is what becomes of an enrolment. Exactly one of Granted, Waits and
// Refused says so.
type Outcome struct {
	Record  Record
	Granted bool
	Waits   string       // why there is no certificate yet
	Refused *api.Problem // why there will be none
}

// Enrol takes a machine into the inventory or recognises it, and decides whether
// it may have a certificate. What it has to note about a refusal it notes too,
// so the transaction is to be committed in every case without an error.
func Enrol(tx store.Tx, now time.Time, e Enrolment) (Outcome, error) {
	macs := MACs(e.Sysinfo)
	if !slices.Contains(macs, e.BootMAC) {
		return Outcome{Refused: problem(http.StatusUnprocessableEntity, api.CodeInvalid,
			fmt.Sprintf("the hardware this server lists has no network interface with the MAC %s it booted from", e.BootMAC),
			"look at the agent's log on the server's console")}, nil
	}
	r, err := Get(tx, e.UUID)
	if errors.Is(err, ErrNoServer) {
		return newcomer(tx, now, e, macs)
	}
	if err != nil {
		return Outcome{}, err
	}
	if intersects(macs, r.Refused) && !intersects(macs, r.MACs) {
		return Outcome{Record: r, Refused: problem(http.StatusConflict, api.CodeUUIDCollision,
			fmt.Sprintf("an operator decided that the SMBIOS UUID %s belongs to the machine with %s, and this one has %s", r.UUID, strings.Join(r.MACs, ", "), strings.Join(macs, ", ")),
			"give this machine another UUID in its firmware, or forget the server: nereid server forget "+r.UUID)}, nil
	}
	if !intersects(macs, r.MACs) {
		return collide(tx, now, r, e, macs)
	}
	if r.Claim != nil {
		return Outcome{Record: r, Refused: collision(r)}, nil
	}
	return recognise(tx, now, r, e, macs)
}

// newcomer makes the record of a server nobody knows.
func newcomer(tx store.Tx, now time.Time, e Enrolment, macs []string) (Outcome, error) {
	r := Record{UUID: e.UUID, Created: now, BootID: e.BootID, Booted: e.Started}
	name, err := newHostname(tx, e.BootMAC)
	if err != nil {
		return Outcome{}, err
	}
	if err := takeHostname(tx, &r, name); err != nil {
		return Outcome{}, err
	}
	if err := Put(tx, r); err != nil { // moves of MACs look for it
		return Outcome{}, err
	}
	if _, err := addMACs(tx, &r, macs, Move{Seen: now}); err != nil {
		return Outcome{}, err
	}
	r.touch()
	if err := Put(tx, r); err != nil {
		return Outcome{}, err
	}
	if err := PutObserved(tx, r.UUID, Observed{Sysinfo: &e.Sysinfo}); err != nil {
		return Outcome{}, err
	}
	return Outcome{Record: r, Waits: waits(r)}, nil
}

// collide notes a machine with disjoint MACs that claims a known UUID.
func collide(tx store.Tx, now time.Time, r Record, e Enrolment, macs []string) (Outcome, error) {
	if r.Claim == nil || !slices.Equal(r.Claim.MACs, macs) || r.Claim.BootID != e.BootID {
		if r.Claim != nil && !intersects(r.Claim.MACs, macs) {
			// A third machine waits for the decision about the first two.
			return Outcome{Record: r, Refused: collision(r)}, nil
		}
		r.Claim = &Claim{MACs: macs, Sysinfo: e.Sysinfo, BootID: e.BootID, Seen: now}
		for _, m := range macs {
			_, found, err := OwnerOf(tx, m)
			if err != nil {
				return Outcome{}, err
			}
			if found {
				continue
			}
			if err := own(tx, m, r.UUID, RoleClaim); err != nil {
				return Outcome{}, err
			}
		}
		if err := Put(tx, r); err != nil {
			return Outcome{}, err
		}
	}
	return Outcome{Record: r, Refused: collision(r)}, nil
}

// recognise is the enrolment of a machine that is known.
func recognise(tx store.Tx, now time.Time, r Record, e Enrolment, macs []string) (Outcome, error) {
	changed, err := addMACs(tx, &r, macs, Move{Seen: now})
	if err != nil {
		return Outcome{}, err
	}
	o, err := GetObserved(tx, r.UUID)
	if err != nil {
		return Outcome{}, err
	}
	if o.Sysinfo == nil || !equalJSON(*o.Sysinfo, e.Sysinfo) {
		o.Sysinfo, o.Digest = &e.Sysinfo, ""
		if err := PutObserved(tx, r.UUID, o); err != nil {
			return Outcome{}, err
		}
	}
	if r.Power != nil && r.Power.Action == "reset" && r.Power.BootID != e.BootID && r.Pin != "" && r.Pin != e.Key {
		// The pool was destroyed, and power was lost before that was reported.
		r.wiped()
		changed = true
	}
	out := Outcome{}
	switch {
	case r.Pin != "" && r.Pin != e.Key:
		if r.Mismatch == nil || r.Mismatch.Key != e.Key || r.Mismatch.BootID != e.BootID {
			r.Mismatch = &Mismatch{Key: e.Key, MAC: e.BootMAC, BootID: e.BootID, Seen: now}
			changed = true
		}
		out.Refused = problem(http.StatusForbidden, api.CodeKeyMismatch,
			fmt.Sprintf("server %s presents another key than the one kept on its pool", r.Hostname),
			"if its disks were replaced, accept the new key with: nereid server reset "+r.Hostname+"; otherwise find out who boots with its identity")
	case r.Rejected || !r.Approved:
		out.Waits = waits(r)
	default:
		if r.Key != e.Key || r.Mismatch != nil {
			r.Key, r.Mismatch = e.Key, nil
			changed = true
		}
		out.Granted = true
	}
	if out.Refused == nil && r.BootID != e.BootID && !r.Approved {
		r.BootID, r.Booted = e.BootID, e.Started
		changed = true
	}
	if changed {
		if err := Put(tx, r); err != nil {
			return Outcome{}, err
		}
	}
	out.Record = r
	return out, nil
}

// waits says why a server that enrolled has no certificate.
func waits(r Record) string {
	if r.Rejected {
		return "an operator rejected this server; let it in with: nereid server approve " + r.UUID
	}
	return "waits for an operator's approval: nereid server approve " + r.UUID
}

func collision(r Record) *api.Problem {
	return problem(http.StatusConflict, api.CodeUUIDCollision,
		fmt.Sprintf("two machines claim the SMBIOS UUID %s: one with %s, one with %s; both are held", r.UUID, strings.Join(r.MACs, ", "), strings.Join(r.Claim.MACs, ", ")),
		"decide which it is with: nereid server approve "+r.UUID+" --mac MAC")
}

func problem(status int, code api.Code, detail, next string) *api.Problem {
	return &api.Problem{Title: http.StatusText(status), Status: status, Code: code, Detail: detail, Next: next}
}
