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

// Approve lets a server in. mac is empty or one of its MACs; of a server that is
// held because several machines claim its UUID, it says which of them it is. What
// the present state does not allow is an *api.Problem. It gives the MACs that are
// not the server's any more.
func Approve(tx store.Tx, now time.Time, r *Record, mac string, syncing bool) (gone []string, err error) {
	rivals, err := Claimants(tx, r.UUID)
	if err != nil {
		return nil, err
	}
	contested := Contested(*r, rivals, syncing)
	i := slices.IndexFunc(rivals, func(c Record) bool { return slices.Contains(c.BootMACs, mac) })
	switch {
	case contested && mac == "":
		return nil, collision(*r, rivals)
	case mac == "" || slices.Contains(r.MACs, mac):
	case contested && i >= 0:
		if gone, err = r.become(tx, now, rivals[i], true); err != nil {
			return nil, err
		}
		rivals = slices.Delete(rivals, i, i+1)
	case i >= 0:
		return nil, problem(http.StatusConflict, api.CodeConflict,
			fmt.Sprintf("server %s has a key, and the machine with %s presents another", r.Hostname, mac), claimNext(rivals[i]))
	default:
		return nil, problem(http.StatusConflict, api.CodeConflict,
			fmt.Sprintf("server %s has no MAC %s; it has %s", r.Hostname, mac, strings.Join(r.MACs, ", ")), "look at it with: nereid server get "+r.Hostname)
	}
	if contested { // which one it is was said, and so which ones it is not
		if err := r.dropKeys(tx); err != nil {
			return nil, err
		}
		r.Key, r.Presented = "", nil
		for i := range rivals {
			if err := Reject(tx, &rivals[i]); err != nil {
				return nil, err
			}
		}
	}
	if err := r.decided(tx); err != nil {
		return nil, err
	}
	r.Approved, r.Rejected, r.Claims = true, false, ""
	r.touch()
	return gone, Put(tx, *r)
}

// decided ends that a machine's claim of a UUID waits for a decision.
func (r *Record) decided(tx store.Tx) error {
	if r.Claims == "" {
		return nil
	}
	return tx.Delete(claimKey(*r))
}

// become makes a machine that claims a server's UUID the server, instead of the
// machine it was. apart gives that one a record of its own, which is rejected.
func (r *Record) become(tx store.Tx, now time.Time, c Record, apart bool) (gone []string, err error) {
	o, err := GetObserved(tx, c.UUID)
	if err != nil {
		return nil, err
	}
	seen, err := GetObserved(tx, r.UUID)
	if err != nil {
		return nil, err
	}
	was := *r
	if err := r.dropKeys(tx); err != nil {
		return nil, err
	}
	if _, err := Forget(tx, c); err != nil {
		return nil, err
	}
	for _, m := range r.MACs {
		freed, err := leave(tx, m, r.UUID, false)
		if err != nil {
			return nil, err
		}
		if freed && !slices.Contains(c.MACs, m) {
			gone = append(gone, m)
		}
	}
	r.wiped()
	r.Key, r.Power, r.BootID, r.Booted, r.MACs, r.BootMACs = "", nil, c.BootID, c.Booted, c.MACs, nil
	if err := PutObserved(tx, r.UUID, Observed{Sysinfo: o.Sysinfo}); err != nil {
		return nil, err
	}
	for _, m := range c.BootMACs {
		if err := booted(tx, r, m); err != nil {
			return nil, err
		}
	}
	if !apart || len(was.BootMACs) == 0 {
		return gone, nil
	}
	loser, err := newcomer(tx, now, facts{mac: was.BootMACs[0], claim: r.UUID}, r.UUID)
	if err != nil {
		return nil, err
	}
	loser.MACs = was.MACs
	for _, m := range was.BootMACs {
		if err := booted(tx, &loser, m); err != nil {
			return nil, err
		}
	}
	if err := PutObserved(tx, loser.UUID, Observed{Sysinfo: seen.Sysinfo}); err != nil {
		return nil, err
	}
	return gone, Reject(tx, &loser)
}

// dropKeys ends that a server's keys lead to it.
func (r *Record) dropKeys(tx store.Tx) error {
	keys := []string{r.Key, r.Pin}
	if r.Presented != nil {
		keys = append(keys, r.Presented.Key)
	}
	for _, k := range keys {
		if err := dropKey(tx, k, r.UUID); err != nil {
			return err
		}
	}
	return nil
}

// AcceptKey makes the key that was presented last the server's. With the MAC of a
// machine that claims the server's UUID, that machine is the server from then on,
// with other hardware. It is refused while the server's key syncs. Nothing on any
// machine is touched. It gives the MACs that are not the server's any more.
func AcceptKey(tx store.Tx, now time.Time, r *Record, mac string, syncing bool) (gone []string, err error) {
	rivals, err := Claimants(tx, r.UUID)
	if err != nil {
		return nil, err
	}
	refuse := func(next, format string, args ...any) ([]string, error) {
		return nil, problem(http.StatusConflict, api.CodeConflict, fmt.Sprintf(format, args...), next)
	}
	i := slices.IndexFunc(rivals, func(c Record) bool { return slices.Contains(c.BootMACs, mac) })
	own := r.OtherKey() && (mac == "" || mac == r.Presented.MAC)
	switch {
	case !r.Approved:
		return refuse("let it in with: nereid server approve "+r.Hostname, "server %s is not approved, so no key was accepted yet", r.Hostname)
	case !own && i < 0 && mac != "":
		return refuse("see which machines wait with: nereid server list", "no machine with the MAC %s presented another key for server %s", mac, r.Hostname)
	case !own && i < 0:
		return refuse("see which machines wait with: nereid server list", "server %s presents no other key than its own", r.Hostname)
	case syncing:
		return refuse("find out which machine presents another key with: nereid server boot-log "+r.Hostname+
			"; when the server's own key is lost, the server falls silent, and its new key can be accepted",
			"server %s syncs with the key it has, or did less than %s ago, so no other is accepted", r.Hostname, api.SilentAfter)
	}
	var key string
	if own {
		key = r.Presented.Key
		if err := r.dropKeys(tx); err != nil {
			return nil, err
		}
		r.Presented = nil
		if r.Pin != "" {
			r.wiped()
		}
	} else {
		if rivals[i].Presented != nil {
			key = rivals[i].Presented.Key
		}
		if gone, err = r.become(tx, now, rivals[i], false); err != nil {
			return nil, err
		}
	}
	if r.Key = key; key != "" {
		if err := moveKey(tx, "", key, *r); err != nil {
			return nil, err
		}
	}
	r.touch()
	return gone, Put(tx, *r)
}

// Reject refuses a server until it is approved.
func Reject(tx store.Tx, r *Record) error {
	if r.SetUp {
		return problem(http.StatusConflict, api.CodeConflict,
			fmt.Sprintf("server %s is set up and may hold data", r.Hostname), "look at what it holds first: nereid server get "+r.Hostname)
	}
	if err := r.decided(tx); err != nil {
		return err
	}
	if err := r.dropKeys(tx); err != nil {
		return err
	}
	r.Rejected, r.Approved, r.Key, r.Presented = true, false, "", nil
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
// that were its own.
func Forget(tx store.Tx, r Record) (free []string, err error) {
	o, err := GetObserved(tx, r.UUID)
	if err != nil {
		return nil, err
	}
	macs := slices.Concat(r.MACs, r.BootMACs)
	if o.Sysinfo != nil {
		macs = append(macs, MACs(*o.Sysinfo)...)
	}
	slices.Sort(macs)
	for _, m := range slices.Compact(macs) {
		owner, found, err := ownerOf(tx, m)
		if err != nil {
			return nil, err
		}
		if _, err = leave(tx, m, r.UUID, false); err != nil {
			return nil, err
		}
		if found && owner.UUID == r.UUID || found && owner.UUID == "" && slices.Contains(r.MACs, m) {
			free = append(free, m)
		}
	}
	if err := r.decided(tx); err != nil {
		return nil, err
	}
	if err := r.dropKeys(tx); err != nil {
		return nil, err
	}
	rivals, err := Claimants(tx, r.UUID)
	if err != nil {
		return nil, err
	}
	for _, c := range rivals { // there is nothing to claim any more
		if err := c.decided(tx); err != nil {
			return nil, err
		}
		c.Claims = ""
		if err := Put(tx, c); err != nil {
			return nil, err
		}
	}
	for _, key := range []string{hostnamePrefix + r.Hostname, observedPrefix + r.UUID, hardwarePrefix + r.UUID, ServerPrefix + r.UUID} {
		if err := tx.Delete(key); err != nil {
			return nil, err
		}
	}
	return free, nil
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
func AskPower(tx store.Tx, now time.Time, r *Record, action, poolGUID string) error {
	r.Power = &api.PowerSpec{ID: NewRevision(), Action: action, BootID: r.BootID, PoolGUID: poolGUID}
	r.PowerAt = now
	r.touch()
	return Put(tx, *r)
}

// ForgetSetup forgets a setup whose pool is not there. Nothing on the server is
// touched, and its key stays what it is.
func ForgetSetup(tx store.Tx, r *Record) error {
	r.wiped()
	r.touch()
	return Put(tx, *r)
}

// wiped is a server whose pool is gone.
func (r *Record) wiped() {
	r.Pin, r.Presented, r.SetUp, r.Setup = "", nil, false, nil
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
