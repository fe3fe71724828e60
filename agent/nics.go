package agent

import (
	"context"
	"errors"
	"fmt"
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

// nics has a worker for each instance's NIC of the server: what is wanted of it (one
// slot, the newest counts), its own failure and its own backoff. A worker is a goroutine
// only while there is something to do. A NIC that fails or waits delays no other.
type nics struct {
	a       *Agent
	board   *board
	gate    *gate
	slots   chan struct{}
	settled chan struct{} // one slot: good may have changed

	rules sync.RWMutex // held while rules are made: of all NICs, or by each worker for its own
	ruled *ruled       // nil: not known

	mu      sync.Mutex
	ctx     context.Context // of run; nil: not begun
	all     map[string]*nic // by MAC
	busy    int             // of all, those with something to do
	bad     int             // of all, those that failed
	workers sync.WaitGroup
	gone    []string // ids of removals that were asked for last and are done
}

// nic is one NIC. It is guarded by nics.mu.
type nic struct {
	mac   string
	want  *api.PortSpec // nil: nothing
	gone  []api.GoneNIC // that have the MAC and are to be removed
	dirty bool          // there is something to do
	works bool          // a goroutine is at it
	err   error         // of the last try
	retry backoff
	again *time.Timer
}

func newNICs(a *Agent, b *board) *nics {
	return &nics{a: a, board: b, gate: newGate(gateNetwork), slots: make(chan struct{}, nicSlots),
		settled: make(chan struct{}, 1), all: map[string]*nic{}}
}

// run lets the workers work until ctx ends, and waits for them.
func (n *nics) run(ctx context.Context) error {
	n.mu.Lock()
	n.ctx = ctx
	for _, w := range n.all {
		n.wake(w)
	}
	n.mu.Unlock()
	<-ctx.Done()
	n.mu.Lock()
	for _, w := range n.all {
		if w.again != nil {
			w.again.Stop()
		}
	}
	n.mu.Unlock()
	n.workers.Wait()
	return nil
}

// want takes what is wanted: NICs that are new or changed, and those that are gone. One
// that is in neither list stays as it was wanted last.
func (n *nics) want(put []api.PortSpec, gone []api.GoneNIC) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gone = slices.DeleteFunc(n.gone, func(id string) bool {
		return !slices.ContainsFunc(gone, func(g api.GoneNIC) bool { return g.ID == id })
	})
	named := make(map[string]bool, len(put))
	for _, p := range put {
		w := n.nic(p.MAC)
		named[w.mac] = true
		if w.want == nil || !reflect.DeepEqual(w.want, &p) {
			w.want = &p
			n.changed(w)
		}
		w.gone = slices.DeleteFunc(w.gone, func(g api.GoneNIC) bool { return is(p, g) })
	}
	for _, g := range gone {
		w := n.all[strings.ToLower(g.MAC)]
		if slices.Contains(n.gone, g.ID) || w != nil && w.want != nil && is(*w.want, g) && named[w.mac] {
			continue
		}
		w = n.nic(g.MAC)
		if w.want != nil && is(*w.want, g) {
			w.want = nil
		}
		if !slices.Contains(w.gone, g) {
			w.gone = append(w.gone, g)
			n.changed(w)
		}
	}
}

// touched are the NICs that are not to be what they were to be, by MAC in lower case, and
// the accounts whose they are and were.
func (n *nics) touched(put []api.PortSpec, gone []api.GoneNIC) (macs, accounts map[string]bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	macs, accounts = map[string]bool{}, map[string]bool{}
	touch := func(mac string, w *nic) {
		macs[mac] = true
		if w != nil && w.want != nil {
			accounts[w.want.Owner] = true
		}
	}
	for i := range put {
		p := &put[i]
		mac := strings.ToLower(p.MAC)
		if w := n.all[mac]; w == nil || w.want == nil || !reflect.DeepEqual(w.want, p) {
			touch(mac, w)
			accounts[p.Owner] = true
		}
	}
	for _, g := range gone {
		mac := strings.ToLower(g.MAC)
		touch(mac, n.all[mac])
	}
	return macs, accounts
}

// retryFailed has NICs that failed made again: what was wrong may have been mended.
func (n *nics) retryFailed() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.bad == 0 {
		return
	}
	for _, w := range n.all {
		if w.err != nil {
			n.changed(w)
		}
	}
}

// is reports whether a NIC is the one that is said to be gone.
func is(p api.PortSpec, g api.GoneNIC) bool {
	return strings.EqualFold(p.MAC, g.MAC) && (g.Instance == "" || g.Instance == p.Instance)
}

// disturbed has a NIC looked at: it may be no more as it was made.
func (n *nics) disturbed(mac string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if w := n.all[strings.ToLower(mac)]; w != nil {
		n.changed(w)
	}
}

// wants reports whether a NIC with a MAC is wanted.
func (n *nics) wants(mac string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	w := n.all[strings.ToLower(mac)]
	return w != nil && w.want != nil
}

// good reports whether all is as it is wanted.
func (n *nics) good() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.busy+n.bad == 0
}

// nic is the worker of a MAC. n.mu is held, as by all that follow.
func (n *nics) nic(mac string) *nic {
	mac = strings.ToLower(mac)
	w := n.all[mac]
	if w == nil {
		w = &nic{mac: mac, retry: backoff{min: time.Second, max: nicRetry}}
		n.all[mac] = w
	}
	return w
}

// changed gives a worker something to do, at once.
func (n *nics) changed(w *nic) {
	if !w.dirty && !w.works {
		n.busy++
	}
	w.dirty = true
	n.wake(w)
}

func (n *nics) wake(w *nic) {
	if w.again != nil {
		w.again.Stop()
		w.again = nil
	}
	if n.ctx == nil || n.ctx.Err() != nil || w.works || !w.dirty {
		return
	}
	w.works = true
	ctx := n.ctx
	n.workers.Go(func() { n.work(ctx, w) })
}

// work makes a NIC until it is as it is wanted, or failed.
func (n *nics) work(ctx context.Context, w *nic) {
	for n.gate.wait(ctx) {
		select {
		case n.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		n.mu.Lock()
		want, gone := w.want, slices.Clone(w.gone)
		w.dirty = false
		n.mu.Unlock()
		err := n.make(ctx, w.mac, want, gone)
		<-n.slots
		if ctx.Err() != nil || n.done(w, gone, err) {
			return
		}
	}
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

// done notes what came of a try, and reports whether the worker has nothing to do now.
func (n *nics) done(w *nic, gone []api.GoneNIC, err error) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case w.err == nil && err != nil:
		n.bad++
	case w.err != nil && err == nil:
		n.bad--
	}
	w.err = err
	if err == nil {
		w.retry.reset()
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
	if w.dirty {
		return false
	}
	w.works = false
	n.busy--
	switch {
	case err != nil:
		w.again = time.AfterFunc(w.retry.next(), func() { n.disturbed(w.mac) })
	case w.want == nil:
		delete(n.all, w.mac)
	}
	poke(n.settled)
	return true
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
		n.disturbed(mac)
	}
}
