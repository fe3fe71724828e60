package boots

import (
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// Pending holds what is known of boots and not written yet; bounded.
type Pending struct{}

func NewPending(max int) *Pending { panic("x") }

// Begin gives the boot a DISCOVER or REQUEST of firmware or iPXE belongs to: the
// MAC's current boot where it may be continued, else a new one. It reads only
// (View is enough); a DISCOVER's event is remembered in memory.
// For a message of a running system (neither PXEClient, HTTPClient nor iPXE) do not call it.
func (p *Pending) Begin(tx store.Tx, r api.BootRequest, now time.Time) (b api.Boot, fresh bool, err error) {
	panic("x")
}

// Peek is Begin for explain: it remembers nothing; a fresh boot has no id.
func (p *Pending) Peek(tx store.Tx, r api.BootRequest, now time.Time) (b api.Boot, fresh bool, err error) {
	panic("x")
}

// Record appends an event (with what Begin remembered, when that is not written yet) in
// an Update; edit, which may be nil, sets further fields (Address, UUID, Platform, Trial, Timings ...). Time zero: now.
// StageFirstSync sets Done. store.ErrNotFound: no such boot.
func (p *Pending) Record(tx store.Tx, id string, ev api.BootEvent, now time.Time, edit func(*api.Boot)) (api.Boot, error) {
	panic("x")
}

// Written says that the Update with Record returned without error.
func (p *Pending) Written(id string) { panic("x") }

// Get reads a boot, Legs not filled. It sees pending boots as well.
func (p *Pending) Get(tx store.Tx, id string) (api.Boot, error) { panic("x") }

// ByMAC and ByServer list boots, newest first, at most limit (0: all kept).
func ByMAC(tx store.Tx, mac string, limit int) ([]api.Boot, error)     { panic("x") }
func ByServer(tx store.Tx, uuid string, limit int) ([]api.Boot, error) { panic("x") }

// Forget removes all boots of a MAC.
func Forget(tx store.Tx, mac string) error { panic("x") }

// Legs is the waterfall of a boot. poweredOn zero: the boot's first DISCOVER.
func Legs(b api.Boot, poweredOn time.Time) []api.BootLeg { panic("x") }

// Hold says whether the boot is held back as a boot loop.
type Hold struct {
	Held     bool
	Until    time.Time
	RetryIn  int    // whole seconds from now to Until, at least 1 while held
	Failures int    // boots in a row without a first sync
	Reason   string // one sentence, when Failures > 0
}

// Loop: current is the boot that asks, earlier the same machine's others, newest
// first. A boot counts as failed when it was handed a platform (Platform set) and has no Done.
func Loop(current api.Boot, earlier []api.Boot, now time.Time) Hold { panic("x") }
