package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"nereid/agent/network"
	"nereid/api"
)

// Of the workers of instances' NICs.
const (
	nicLimit = networkLimit    // one change of a NIC, which may wait for the networker
	nicSlots = 8               // NICs that are changed at once
	nicRetry = 2 * time.Minute // after which one that failed is tried again, at the latest
)

// nics are the instances' NICs of the server, each with a worker: what is wanted of it
// (the newest counts), its own failure and its own backoff.
type nics struct {
	*crew
	a       *Agent
	board   *board
	settled chan struct{} // one slot: good may have changed

	rules sync.RWMutex // held while rules are made: of all NICs, or by each worker for its own
	ruled *ruled       // nil: not known

	nics map[string]*nic // by MAC; guarded by crew.mu
	gone []string        // ids of removals that were asked for last and are done
}

// nic is what is wanted of one NIC.
type nic struct {
	mac  string
	want *api.PortSpec // nil: nothing
	gone []api.GoneNIC // that have the MAC and are to be removed
}

func newNICs(a *Agent, b *board) *nics {
	n := &nics{crew: newCrew(nicSlots, nicRetry, gateNetwork), a: a, board: b, settled: make(chan struct{}, 1), nics: map[string]*nic{}}
	n.begin = n.job
	return n
}

// want takes what is wanted: NICs that are new or changed, and those that are gone. One
// that is in neither list stays as it was wanted last.
func (n *nics) want(put []api.PortSpec, gone []api.GoneNIC) { n.wantChanged(put, n.changes(put), gone) }

// changes are those of some NICs that are not to be what they were to be.
func (n *nics) changes(put []api.PortSpec) (changed []*api.PortSpec) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range put {
		p := &put[i]
		if w := n.nics[strings.ToLower(p.MAC)]; w == nil || w.want == nil || !samePort(w.want, p) {
			changed = append(changed, p)
		}
	}
	return changed
}

// wantChanged is want of which it is known what changes.
func (n *nics) wantChanged(put []api.PortSpec, changed []*api.PortSpec, gone []api.GoneNIC) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gone = slices.DeleteFunc(n.gone, func(id string) bool {
		return !slices.ContainsFunc(gone, func(g api.GoneNIC) bool { return g.ID == id })
	})
	named := make(map[string]bool, len(gone)) // of MACs that are of something gone: whether put has them
	for _, g := range gone {
		named[strings.ToLower(g.MAC)] = false
	}
	if len(gone) > 0 {
		for i := range put {
			mac := strings.ToLower(put[i].MAC)
			if _, is := named[mac]; is {
				named[mac] = true
			}
		}
	}
	for _, p := range changed {
		w := n.nic(p.MAC)
		want := *p
		w.want = &want
		w.gone = slices.DeleteFunc(w.gone, func(g api.GoneNIC) bool { return is(*p, g) })
		n.changed(w.mac)
	}
	for _, g := range gone {
		w := n.nics[strings.ToLower(g.MAC)]
		if slices.Contains(n.gone, g.ID) || w != nil && w.want != nil && is(*w.want, g) && named[w.mac] {
			continue
		}
		w = n.nic(g.MAC)
		if w.want != nil && is(*w.want, g) {
			w.want = nil
		}
		if !slices.Contains(w.gone, g) {
			w.gone = append(w.gone, g)
			n.changed(w.mac)
		}
	}
}

// touched are the NICs that are not to be what they were to be, or are gone, by MAC in
// lower case, and the accounts whose they are and were.
func (n *nics) touched(changed []*api.PortSpec, gone []api.GoneNIC) (macs, accounts map[string]bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	macs, accounts = map[string]bool{}, map[string]bool{}
	touch := func(mac string) {
		mac = strings.ToLower(mac)
		macs[mac] = true
		if w := n.nics[mac]; w != nil && w.want != nil {
			accounts[w.want.Owner] = true
		}
	}
	for _, p := range changed {
		touch(p.MAC)
		accounts[p.Owner] = true
	}
	for _, g := range gone {
		touch(g.MAC)
	}
	return macs, accounts
}

// samePort compares what is wanted of a NIC. It is asked of all of them when one changes,
// and those that did not have their lists from the same memory.
func samePort(a, b *api.PortSpec) bool {
	return a.MAC == b.MAC && a.Instance == b.Instance && a.Owner == b.Owner && a.Brand == b.Brand && a.Tag == b.Tag && a.VLAN == b.VLAN &&
		a.VNI == b.VNI && a.MTU == b.MTU && a.Primary == b.Primary && a.Firewall == b.Firewall &&
		a.AllowIPSpoofing == b.AllowIPSpoofing && a.AllowMACSpoofing == b.AllowMACSpoofing && a.AllowDHCPSpoofing == b.AllowDHCPSpoofing &&
		a.AllowRestrictedTraffic == b.AllowRestrictedTraffic && slices.Equal(a.AllowedIPs, b.AllowedIPs) && maps.Equal(a.Tags, b.Tags) && reflect.DeepEqual(a.Addresses, b.Addresses)
}

// is reports whether a NIC is the one that is said to be gone.
func is(p api.PortSpec, g api.GoneNIC) bool {
	return strings.EqualFold(p.MAC, g.MAC) && (g.Instance == "" || g.Instance == p.Instance)
}

// wants reports whether a NIC with a MAC is wanted.
func (n *nics) wants(mac string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	w := n.nics[strings.ToLower(mac)]
	return w != nil && w.want != nil
}

// ready reports whether a NIC is there as it is wanted.
func (n *nics) ready(mac string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	mac = strings.ToLower(mac)
	w := n.nics[mac]
	return w != nil && w.want != nil && n.fine(mac)
}

// nic is the NIC of a MAC. n.mu is held, as by all that follow.
func (n *nics) nic(mac string) *nic {
	mac = strings.ToLower(mac)
	w := n.nics[mac]
	if w == nil {
		w = &nic{mac: mac}
		n.nics[mac] = w
	}
	return w
}

// job is what there is to do of a NIC.
func (n *nics) job(mac string) (func(context.Context) error, func(error) bool) {
	w := n.nic(mac)
	want, gone := w.want, slices.Clone(w.gone)
	return func(ctx context.Context) error { return n.make(ctx, mac, want, gone) },
		func(err error) bool { return n.made(w, want, gone, err) }
}

// make does what there is to do of one NIC. What is gone goes first: it may be another
// instance's NIC with the same MAC.
func (n *nics) make(ctx context.Context, mac string, want *api.PortSpec, gone []api.GoneNIC) error {
	defer n.a.health.busy(aboutNIC+mac, nicLimit+stepLimit)()
	ctx, cancel := context.WithTimeout(ctx, nicLimit)
	defer cancel()
	var errs []error
	for _, g := range gone {
		err := n.a.Net.Ports.DropPort(ctx, g.MAC, g.Instance)
		if err == nil {
			err = n.unrule(ctx, g)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("drop NIC %s of instance %s: %w", g.MAC, g.Instance, err))
		}
	}
	if want != nil && len(errs) == 0 {
		err := n.rule(ctx, *want)
		if err == nil {
			err = n.a.Net.Ports.SetPort(ctx, *want)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("set NIC %s of instance %s: %w", mac, want.Instance, err))
		}
	}
	return errors.Join(errs...)
}

// rule makes the rules of a NIC that is to be made. Without them it is not.
func (n *nics) rule(ctx context.Context, want api.PortSpec) error {
	if n.a.Net.Filter == nil {
		return nil
	}
	n.rules.RLock()
	defer n.rules.RUnlock()
	if n.ruled == nil {
		return errNoRules
	}
	return n.a.Net.Filter.SetPort(ctx, filterPort(n.ruled.spec, want), n.ruled.rules.port(want.MAC))
}

var errNoRules = errors.New("the rules of this server's NICs could not be made; they are made first")

// unrule takes away the rules of a NIC that is not there.
func (n *nics) unrule(ctx context.Context, g api.GoneNIC) error {
	if n.a.Net.Filter == nil {
		return nil
	}
	n.rules.RLock()
	defer n.rules.RUnlock()
	return n.a.Net.Filter.DropPort(ctx, g.MAC, g.Instance)
}

// made notes what came of a try.
func (n *nics) made(w *nic, want *api.PortSpec, gone []api.GoneNIC, err error) (forget bool) {
	if err == nil {
		for _, g := range gone {
			n.gone = append(n.gone, g.ID)
		}
		w.gone = slices.DeleteFunc(w.gone, func(g api.GoneNIC) bool { return slices.Contains(gone, g) })
		n.board.problem(aboutNIC+w.mac, "")
		if len(gone) > 0 {
			n.told(gone)
		}
	} else {
		n.a.Log.Error("NIC", "mac", w.mac, "err", err)
		n.board.problem(aboutNIC+w.mac, sentenceOf(err))
	}
	poke(n.settled)
	if err == nil && want != nil {
		n.a.nicReady(want.Instance)
	}
	if err == nil && w.want == nil && len(w.gone) == 0 {
		delete(n.nics, w.mac)
		return true
	}
	return false
}

// told tells of removals that are done: what was unexpected is not there.
func (n *nics) told(gone []api.GoneNIC) {
	n.a.ports.done(n.gone)
	n.board.update(func(r *api.Report) bool {
		left := slices.DeleteFunc(slices.Clone(r.UnexpectedNICs), func(u api.UnexpectedNIC) bool {
			return slices.ContainsFunc(gone, func(g api.GoneNIC) bool {
				return is(api.PortSpec{MAC: u.MAC, Instance: u.Instance}, g)
			})
		})
		return len(left) < len(r.UnexpectedNICs) && put(&r.UnexpectedNICs, left)
	})
}

// sentenceOf says what is wrong with a NIC, in the network's words where it has some.
func sentenceOf(err error) string {
	var p network.Problems
	if errors.As(err, &p) && len(p) == 1 {
		return p[0]
	}
	return "A NIC differs from what the head node wants: " + strings.ReplaceAll(err.Error(), "\n", "; ") + "."
}

// Disturbed has an instance's NIC made again, when it is not as it was made: what the
// network tells of. It never blocks.
func (a *Agent) Disturbed(mac string) {
	if n := a.nics.Load(); n != nil {
		n.disturbed(strings.ToLower(mac))
	}
}
