package inventory

import (
	"slices"

	"nereid/api"
)

// facts are what an enrolment is judged by: what was observed (the boot MAC and
// the key), what the machine says of itself, and the records these lead to.
type facts struct {
	mac   string // it booted from
	key   string
	claim string // usable SMBIOS UUID; empty: none
	nics  []nic

	byKey  *Record   // whose key it is
	byMAC  *Record   // whose boots those from the MAC are
	also   []*Record // others that list the MAC or booted from it
	byUUID *Record   // with the claimed UUID

	waitsWith map[string][]string // MACs that each of also listed, where it waits for approval
}

// who says which known server a machine is. nil: none, it is a newcomer, and
// claims is the UUID of the known server that it says it is, if it says so.
//
// The key proves, whatever the machine lists. Then the MAC it booted from
// decides, where the machine does not say of itself that it is another. What it
// says without either makes it nobody it is not.
func (f facts) who() (rec *Record, claims string) {
	if f.byKey != nil && (f.byMAC == nil || f.byMAC.UUID == f.byKey.UUID || !f.byMAC.says(f.claim) || !f.identifies()) {
		return f.byKey, ""
	}
	// Another server's chassis with this server's key in it is that chassis: an
	// operator says whether the disks were moved on purpose.
	if f.byMAC != nil && f.byMAC.says(f.claim) {
		return f.byMAC, ""
	}
	for _, r := range f.also {
		if r.says(f.claim) && (slices.Contains(r.BootMACs, f.mac) && f.claim != "" || f.mutual(r)) {
			return r, ""
		}
	}
	if f.byUUID != nil {
		return nil, f.byUUID.UUID
	}
	return nil, ""
}

// says reports whether a machine that claims a UUID can be this server: it has
// none, or it is what this server's machine claims too.
func (r *Record) says(claim string) bool {
	return claim == "" || claim == r.UUID || claim == r.SMBIOS
}

// identifies says whether the boot MAC is of a NIC that stays in its machine.
func (f facts) identifies() bool {
	return slices.Contains(f.nics, nic{mac: f.mac, identifies: true})
}

// mutual says whether a newcomer that waits booted from another of its NICs: each
// of the two enrolments lists the MAC that the other booted from. Where both claim one
// UUID, and nobody was let in, that may be any NIC.
func (f facts) mutual(r *Record) bool {
	one := f.claim != "" && slices.Contains(f.waitsWith[r.UUID], f.mac)
	return !r.accepted() && (one || slices.Contains(r.MACs, f.mac) && f.identifies()) &&
		slices.ContainsFunc(f.nics, func(n nic) bool { return (one || n.identifies) && slices.Contains(r.BootMACs, n.mac) })
}

// verdict is what becomes of a machine that was recognised.
type verdict string

const (
	grants    verdict = "granted"
	waits     verdict = "waits"
	collides  verdict = "collides"  // two machines claim one UUID, and an operator has not said which it is
	mismatch  verdict = "mismatch"  // another key than the server's
	explained verdict = "explained" // another key, because an operator asked for what made it
)

// standing is what a verdict takes besides the record.
type standing struct {
	contested bool // other machines claim the server's UUID, and nothing tells which it is
	syncing   bool // the server's key syncs
	went      bool // the holder of the server's key said that it does what was asked of its power
}

// judge decides about an enrolment of a server with a key.
func judge(r Record, e Enrolment, s standing) verdict {
	switch {
	case r.Claims != "" && !r.Approved:
		return collides
	case r.Rejected:
		return waits
	case r.Approved && r.accepted() && r.holds(e.Key):
		return grants
	case s.contested:
		return collides
	case !r.Approved:
		return waits
	case !r.accepted():
		return grants
	case r.expects(e) && (s.went || !s.syncing):
		return explained
	}
	return mismatch
}

// expects says whether an operator's order explains another key: a key that is
// only in RAM ends with the boot that was asked to end, and the one on a pool
// with the reset of the pool. A boot that began before the order is not its result.
func (r *Record) expects(e Enrolment) bool {
	p := r.Power
	return p != nil && p.BootID != e.BootID && !e.Started.Before(r.PowerAt) && (r.Pin == "" || p.Action == "reset")
}

// went says whether a server reported that it does what was asked of its power.
func went(r Record, o Observed) bool {
	return r.Power != nil && o.Report != nil && o.Report.Power != nil && o.Report.Power.ID == r.Power.ID && o.Report.Power.Error == ""
}

// claimOf is the usable UUID a machine says it has.
func claimOf(info api.Sysinfo) string {
	u, _ := Usable(info.UUID)
	return u
}
