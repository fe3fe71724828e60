package machine

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"nereid/agent/machine/zone"
	"nereid/api"
)

// Store has the datasets of instances and images. Its methods may be called again after
// a failure, and for different instances side by side.
type Store interface {
	// CloneImage makes an instance's dataset from an image; one that is there is left
	// as it is.
	CloneImage(ctx context.Context, image, instance string, quotaMiB int) error
	SetQuota(ctx context.Context, instance string, quotaMiB int) error
	// KeepSpec keeps a text with an instance's dataset.
	KeepSpec(ctx context.Context, instance string, spec []byte) error
	// DropInstance destroys an instance's dataset and all that is in it; one that is
	// not there is no error.
	DropInstance(ctx context.Context, instance string) error
}

// Units are the service manager's; Systemd has them. name is a whole unit's.
type Units interface {
	// Start starts a zone's unit, and returns when it runs. A failure says why.
	Start(ctx context.Context, name, dir string, l api.Limits) error
	// Stop asks a unit to end, which it may take until StopLimit for.
	Stop(ctx context.Context, name string) error
	// Signal sends a signal to a zone's first process; SIGKILL goes to all of the unit.
	Signal(ctx context.Context, name, signal string) error
	// Limit sets a running unit's limits.
	Limit(ctx context.Context, name string, l api.Limits) error
	// Reset forgets a unit that failed, and says what it failed of.
	Reset(ctx context.Context, name string) (why string, err error)
}

// StopLimit is how long a zone may take to end before it is killed.
const StopLimit = time.Minute

// Range of the user IDs of zones: 65,536 each, from base on (systemd's UIDS-GIDS page:
// "Container UIDs").
const (
	firstBase = 524288
	lastBase  = 1878982656
	zoneIDs   = 65536
)

// Machines are a server's instances. Fields are set before the first call and not
// changed after. Methods may be called from several goroutines; those that change an
// instance, one at a time for each.
type Machines struct {
	Store Store
	Disks Disks // nil: there are no virtual machines
	Units Units
	Dir   string // folder of the zones' files, in RAM; empty: zone.Dir
	// Pool is the dataset that instances' are below.
	Pool   string
	Server string // UUID of this server, which its instances may know
	// Ready reports whether an instance's NIC is there for its zone. Nil: all are.
	Ready func(mac string) bool
	// Fetch is called for an image that an instance waits for: ImageThere says that it
	// came. It must not block.
	Fetch func(image, uuid string)
	// Changed is called when something of an instance is another now: Set has something
	// to do, or to say. It must not block.
	Changed func(uuid string)
	// Live gives a zone that runs the NICs that it has not, and brings what is set in it
	// to what was left for it. Nil: that comes with the zone's next start.
	Live func(ctx context.Context, uuid string, h zone.Host) error
	// Prepare makes the server ready for zones, before the first one. Nil: it is.
	Prepare   func(ctx context.Context) error
	Log       *slog.Logger
	Snapshots Snapshots // nil: none are taken
	// Resters gives what has the guest of a machine that runs rest while a snapshot of it
	// is taken. Nil: the agent in the guest, where one answers.
	Resters func(ctx context.Context, uuid string) (Rester, error)
	Now     func() time.Time // nil: time.Now
	// Hypervisor is what this server runs virtual machines with. Nil: nothing.
	Hypervisor func() Hypervisor

	mu       sync.Mutex
	all      map[string]*instance
	images   map[string]bool
	coming   map[string]string // image: how far it is
	bases    map[uint32]string
	next     uint32
	prepared bool
	monitors monitors
	shooting chan struct{} // one slot: who makes a picture of a screen
}

// instance is what is known of one.
type instance struct {
	seen
	since time.Time // it runs
	until time.Time // it stops
	way   way
	why   string    // it failed, by itself
	soon  int       // ends by itself, each soon after the start before it
	pause time.Time // it is not started again before that

	kind    string // its brand, where something of it is there; empty: not known
	refused string // what it was asked for and did not get, since its start
	guestIs guestIs
	conn    *connection   // with its QEMU; nil: there is none
	clock   *time.Timer   // has it looked at when its schedule says; nil: none was set
	turn    chan struct{} // to talk with the agent in its guest; nil: nobody has
	rests   bool          // somebody sees to the guest's rest
}

// Unit is the name of a zone's unit.
func Unit(uuid string) string { return zones().unit(uuid) }

// brand is that of an instance.
func (m *Machines) brand(uuid string, spec *api.InstanceSpec) *brand {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.find(uuid).brand(spec)
}

func (m *Machines) kindOf(spec *api.InstanceSpec) string {
	if spec == nil {
		return ""
	}
	return spec.Brand
}

func (m *Machines) log() *slog.Logger {
	if m.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return m.Log
}

func (m *Machines) dir(uuid string) string {
	if m.Dir == "" {
		return filepath.Join(zone.Dir, uuid)
	}
	return filepath.Join(m.Dir, uuid)
}

// begin makes what a first call needs. m.mu is held.
func (m *Machines) begin() {
	if m.all == nil {
		m.all, m.images, m.coming, m.bases = map[string]*instance{}, map[string]bool{}, map[string]string{}, map[uint32]string{}
	}
}

// find is an instance, which is made where it is not known. m.mu is held.
func (m *Machines) find(uuid string) *instance {
	m.begin()
	i := m.all[uuid]
	if i == nil {
		i = &instance{way: readWay(m.dir(uuid), time.Now())}
		m.all[uuid] = i
		if h, err := zone.Read(m.dir(uuid)); err == nil {
			i.left, i.ran, i.kind = &h, zone.Started(m.dir(uuid)), kindOf(h)
			if i.ran {
				i.why = zone.Reason(m.dir(uuid))
			}
			if h.Base != 0 {
				m.bases[h.Base] = uuid
			}
		}
	}
	return i
}

// changed tells of an instance. m.mu is not held.
func (m *Machines) changed(uuid string) {
	if m.Changed != nil {
		m.Changed(uuid)
	}
}

// Known takes in what is on the pool: instances with what is kept of each, nil for one
// without, and images. It gives their specs.
func (m *Machines) Known(instances map[string]*api.InstanceSpec, images []string) {
	m.mu.Lock()
	for uuid, kept := range instances {
		i := m.find(uuid)
		i.dataset, i.kept = true, kept
	}
	m.begin()
	for _, image := range images {
		m.images[image] = true
	}
	m.mu.Unlock()
	for uuid := range instances {
		m.changed(uuid)
	}
}

// Kept is what is kept of an instance with its dataset; nil: nothing.
func (m *Machines) Kept(uuid string) *api.InstanceSpec {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.find(uuid).kept
}

// Status is how an instance is, without anything done about it.
func (m *Machines) Status(uuid string, w Wanted) api.InstanceStatus {
	if w.Spec == nil {
		w.Spec = m.Kept(uuid)
	}
	return m.status(uuid, w, "", nil)
}

// HasImage reports whether an image is on the pool.
func (m *Machines) HasImage(image string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.images[image]
}

// ImageThere notes that an image is on the pool, or with there false that it is not.
func (m *Machines) ImageThere(image string, there bool) {
	m.mu.Lock()
	m.begin()
	m.images[image] = there
	delete(m.coming, image)
	m.mu.Unlock()
}

// ImageComing notes how far an image is, for those who wait for it: a sentence.
func (m *Machines) ImageComing(image, how string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.begin()
	m.coming[image] = how
}

// Saw takes in a unit's change of state, as of a moment. name may be any unit's. The last
// ones of a unit may come when its instance was forgotten already.
func (m *Machines) Saw(name, state string, since time.Time) {
	b, uuid, ok := unitOf(name)
	if !ok {
		return
	}
	m.mu.Lock()
	_, known := m.all[uuid]
	m.mu.Unlock()
	if known || state != unitInactive && state != unitFailed {
		m.saw(b, uuid, state, since)
	}
}

// saw takes in a unit's state.
func (m *Machines) saw(b *brand, uuid, state string, since time.Time) {
	if state == unitInactive {
		state = unitNone
	}
	m.mu.Lock()
	i := m.find(uuid)
	was := i.unit
	i.kind = b.name
	if was == unitStops && state == unitRuns {
		m.mu.Unlock()
		return // said before it was told to stop
	}
	i.unit = state
	if state == unitRuns {
		i.since, i.ran = since, true
	}
	if was == unitRuns && i.ran && (state == unitNone || state == unitFailed) {
		m.ended(uuid, i)
	}
	if was != state {
		i.now = nil // what a start set is to be read
	}
	if state != unitStops {
		i.until = time.Time{}
	}
	m.mu.Unlock()
	m.attend(uuid)
	if was != state {
		m.changed(uuid)
	}
}

// Times between ends and starts.
const (
	longEnough = time.Minute // a run that is no reason to wait
	maxPause   = 2 * time.Minute
)

// ended notes that an instance ended by itself: one that does so again and again, soon
// after each start, is started less and less often. m.mu is held.
func (m *Machines) ended(uuid string, i *instance) {
	now := time.Now()
	if now.Sub(i.since) > longEnough {
		i.soon = 0
	}
	if i.soon++; i.soon == 1 {
		return
	}
	wait := maxPause
	if i.soon < 8 {
		wait = time.Second << (i.soon - 1)
	}
	i.pause = now.Add(wait)
	time.AfterFunc(wait, func() { m.changed(uuid) })
}

// SawAll takes in the states of all units that there are, by name.
func (m *Machines) SawAll(states map[string]State) {
	m.mu.Lock()
	gone := map[string]*brand{}
	for uuid, i := range m.all {
		b := i.brand(nil)
		if _, is := states[b.unit(uuid)]; !is && i.unit != unitNone {
			gone[uuid] = b
		}
	}
	m.mu.Unlock()
	for name, s := range states {
		if b, uuid, ok := unitOf(name); ok {
			m.saw(b, uuid, s.Active, s.Since)
		}
	}
	for uuid, b := range gone {
		m.saw(b, uuid, unitNone, time.Time{})
	}
}

// State is a unit's.
type State struct {
	Active string    // ActiveState
	Since  time.Time // it runs
}

// All are the UUIDs of instances of which something is there.
func (m *Machines) All() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []string
	for uuid, i := range m.all {
		if i.there() {
			all = append(all, uuid)
		}
	}
	slices.Sort(all)
	return all
}

func (i *instance) there() bool { return i.dataset || i.unit != unitNone || i.left != nil }

// Running are the UUIDs of instances whose units are not at an end.
func (m *Machines) Running() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []string
	for uuid, i := range m.all {
		if i.unit != unitNone && i.unit != unitFailed {
			all = append(all, uuid)
		}
	}
	slices.Sort(all)
	return all
}

// look is what is seen of an instance now, for a plan.
func (m *Machines) look(uuid string, spec *api.InstanceSpec) seen {
	m.mu.Lock()
	i := m.find(uuid)
	if i.unit == unitRuns && i.now == nil && m.Live != nil {
		if in, err := zone.Now(m.dir(uuid)); err == nil {
			i.now = &in
		}
	}
	s := i.seen
	s.at = time.Now()
	s.paused = s.at.Before(i.pause)
	s.server, s.live = m.Server, m.Live != nil
	s.image = spec != nil && m.images[spec.Image]
	s.dir, s.pool = m.dir(uuid), m.Pool
	m.mu.Unlock()
	if m.Hypervisor != nil && spec != nil && spec.Brand == api.BrandKVM {
		s.hypervisor, s.log = m.Hypervisor(), machineLog(uuid)
	}
	if spec == nil || m.Ready == nil || s.unit != unitNone && s.unit != unitRuns {
		return s
	}
	for _, n := range spec.NICs {
		if (s.unit == unitNone || (s.live || s.hot != nil) && !s.has(n.MAC)) && !m.Ready(n.MAC) {
			s.waits = append(s.waits, n.MAC)
		}
	}
	return s
}

// note changes what is known of an instance.
func (m *Machines) note(uuid string, f func(*instance)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(m.find(uuid))
}

// maxRounds is how often one Set plans: a plan that never gets empty is a fault.
const maxRounds = 12

// Set makes an instance what is wanted of it, as far as that is possible now, and says
// how it is then. An error is of the last step, and has the step tried again; what no
// try can change is in the status alone. Called again when all is as it should be it
// does nothing, and asks nobody. gone says that nothing is left of an instance that is to
// go, or of one that nobody wants and that has no spec.
func (m *Machines) Set(ctx context.Context, uuid string, w Wanted) (st api.InstanceStatus, gone bool, err error) {
	if w.Spec == nil && !w.Gone {
		w.Spec = m.Kept(uuid)
	}
	wait := ""
	for range maxRounds {
		s := m.look(uuid, w.Spec)
		var steps []step
		steps, wait, err = plan(w, s)
		m.noteWay(uuid, func(i *instance) bool { return i.way.wait(w, wait, time.Now()) })
		if err != nil {
			return m.status(uuid, w, wait, err), false, nil
		}
		if err := m.carry(ctx, uuid, w, s, steps); err != nil {
			return m.status(uuid, w, wait, err), false, err
		}
		if len(steps) == 0 || wait != "" {
			st = m.status(uuid, w, wait, nil)
			if wait == "" {
				m.note(uuid, func(i *instance) {
					if i.unit == unitRuns {
						i.way.started(zone.Entered(m.dir(uuid)), i.since)
					}
					st.Steps = i.way.end()
				})
			}
			return st, (w.Gone || w.Spec == nil) && m.forgotten(uuid), nil
		}
	}
	err = errors.New("steps are still left after the last round")
	return m.status(uuid, w, wait, err), false, err
}

// forgotten forgets an instance of which nothing is there; false: something is.
func (m *Machines) forgotten(uuid string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.find(uuid)
	if i.there() {
		return false
	}
	for base, of := range m.bases {
		if of == uuid {
			delete(m.bases, base)
		}
	}
	if err := forgetWay(m.dir(uuid)); err != nil {
		m.log().Warn("forget where the time of a create went", "uuid", uuid, "err", err)
	}
	if i.clock != nil {
		i.clock.Stop()
	}
	delete(m.all, uuid)
	return true
}

// base gives an instance a range of user IDs that no other has.
func (m *Machines) base(uuid string) (uint32, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := m.find(uuid); i.left != nil && i.left.Base != 0 {
		return i.left.Base, nil
	}
	for range (lastBase - firstBase) / zoneIDs {
		if m.next < firstBase || m.next > lastBase {
			m.next = firstBase
		}
		base := m.next
		m.next += zoneIDs
		if m.bases[base] == "" {
			m.bases[base] = uuid
			return base, nil
		}
	}
	return 0, errors.New("no range of user IDs is free: this server has more instances than there are ranges")
}
