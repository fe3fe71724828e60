package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"nereid/agent/machine"
	"nereid/agent/storage"
	"nereid/api"
)

// Of the workers of instances.
const (
	instanceLimit = 5 * time.Minute // one try, which starts a zone at the most
	instanceSlots = 8               // instances that are changed at once
	instanceRetry = 2 * time.Minute // after which one that failed is tried again, at the latest
	downStop      = machine.StopLimit + 20*time.Second
)

// Why the gate of instances is closed.
const (
	gatePool  = "what is on the pool is not known yet"
	gateUnits = "what runs is not known yet"
)

// Zones are what the server's instances are made of. Without Machines the agent leaves
// instances alone.
type Zones struct {
	Machines *machine.Machines // with Store and Units; the agent sets what else it has
	Datasets Datasets
	// Pool is the system pool's name; without one its error wraps storage.ErrNoPool.
	Pool func(ctx context.Context) (string, error)
	// Space is how large the system pool is, and how much of it is used, in bytes. Nil:
	// images stay.
	Space func(ctx context.Context) (size, used int64, err error)
	// Watch tells of all units, and then of each change; *machine.Systemd does.
	Watch func(ctx context.Context, all func(map[string]machine.State), one func(name, state string, since time.Time)) error
	// FitCache bounds ZFS's cache to what instances leave that may use so many bytes of
	// memory together; *storage.Storage does. Nil: it is as the system has it.
	FitCache func(sold int64) error
	// Written are what instances changed of their metadata. Nil: they cannot.
	Written Written
}

// Datasets are those of instances and images; *storage.Roots has them.
type Datasets interface {
	// Look lists them, with one command.
	Look(ctx context.Context) (storage.Found, error)
	// Tidy removes what imports left that were cut.
	Tidy(ctx context.Context, f storage.Found) error
	// ImportImage makes an image's dataset from its file, which it verifies while it
	// reads; one that is there is no error. progress is told how many bytes were read.
	ImportImage(ctx context.Context, spec api.ImageSpec, r io.Reader, progress func(done int64)) error
	// Collect destroys the images that are to go: none with a clone, and none that keep
	// names. size and used are the pool's, in bytes.
	Collect(ctx context.Context, c storage.Collection, f storage.Found, keep func(uuid string) bool, size, used int64) (gone []string, err error)
}

// instanceKind is the set of a server's instances, by UUID.
func instanceKind() kind[api.InstanceSpec] {
	return kind[api.InstanceSpec]{
		what: "instance", file: instancesFile, set: api.InstanceSet,
		key: func(s api.InstanceSpec) string { return s.UUID }, slot: func(key string) string { return key },
		lost: "What the head node wants of instances could not be kept",
	}
}

// instances are the server's instances, each with a worker. What is wanted of them is in
// the set; one that the set does not name is as it was wanted last.
type instances struct {
	*crew
	a      *Agent
	board  *board
	m      *machine.Machines
	set    *follower[api.InstanceSpec]
	images *imageCrew

	snapshots *snapshotBook

	told    *instanceLog
	written writtenLog
	sold    *sold
	ended   chan struct{} // one slot: one may have ended
	load    chan struct{} // one slot: the pool may be another
	loaded  bool
	down    bool // the server goes down; guarded by crew.mu
}

func newInstances(a *Agent, b *board) *instances {
	i := &instances{crew: newCrew(instanceSlots, instanceRetry, gatePool, gateUnits, gateNetwork), a: a, board: b, m: a.Zones.Machines,
		set: newFollower(a, instanceKind()), told: newInstanceLog(), sold: newSold(), ended: make(chan struct{}, 1), load: make(chan struct{}, 1)}
	i.images = newImages(a, i)
	i.snapshots = newSnapshotBook(a)
	i.crew.begin = i.job
	i.m.Changed = i.look
	i.m.Fetch = i.images.fetch
	if a.Net.Links != nil {
		i.m.Ready = func(mac string) bool { n := a.nics.Load(); return n != nil && n.ready(mac) }
	} else {
		i.gate.open(gateNetwork)
	}
	return i
}

// look has an instance looked at.
func (i *instances) look(uuid string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.changed(uuid)
}

// nicReady has the instance of a NIC looked at: it may have waited for it.
func (a *Agent) nicReady(instance string) {
	i := a.instances
	if i == nil {
		return
	}
	i.set.mu.Lock()
	_, is := i.set.state.Items[strings.ToLower(instance)]
	i.set.mu.Unlock()
	if is {
		i.look(strings.ToLower(instance))
	}
}

// wanted is what is wanted of an instance, by what the set says, and whether the set
// names it. id is that of its removal.
func (i *instances) wanted(uuid string) (w machine.Wanted, named bool, id string) {
	i.set.mu.Lock()
	defer i.set.mu.Unlock()
	s := &i.set.state
	if id, w.Gone = s.Gone[uuid]; w.Gone {
		return w, true, id
	}
	if spec, is := s.Items[uuid]; is {
		w.Spec, named = &spec, !s.Stale[uuid]
	}
	return w, named, ""
}

// job is what there is to do of an instance.
func (i *instances) job(uuid string) (func(context.Context) error, func(error) bool) {
	over := i.written.over(uuid) // it is in what is wanted from here on
	w, named, id := i.wanted(uuid)
	w.Down = i.down
	if w.Spec != nil {
		i.sold.put(uuid, w.Spec.MemoryMiB)
	}
	wishes, removals := i.snapshots.wishes(uuid)
	var st api.InstanceStatus
	var snaps []api.SnapshotStatus
	var gone, looked bool
	try := func(ctx context.Context) (err error) {
		defer i.a.health.busy("instance "+uuid, instanceLimit+stepLimit)()
		ctx, cancel := context.WithTimeout(ctx, instanceLimit)
		defer cancel()
		if st, gone, err = i.m.Set(ctx, uuid, w); err == nil {
			i.dropWritten(uuid, over)
		}
		if gone || w.Gone {
			return err
		}
		// They wait for nothing that is wrong with the instance.
		var serr error
		snaps, serr = i.m.SetSnapshots(ctx, uuid, w.Spec, wishes)
		looked = true
		return errors.Join(err, serr)
	}
	return try, func(err error) bool {
		poke(i.ended)
		if gone || looked {
			i.snapshots.done(uuid, removals, snaps)
		}
		if gone {
			i.sold.put(uuid, 0)
			i.set.done([]string{id})
		}
		// A late look, for a unit's last signal, finds one that was told of as gone already.
		news := gone && (w.Gone || i.told.knows(uuid)) && i.told.gone(uuid) || !gone && i.tell(st, w, named)
		if looked && i.told.snapshots(uuid, snaps) || news {
			i.board.nudge()
		}
		return err == nil
	}
}

// tell takes an instance's state into what the head node is told next. Of one that the
// set does not name it gets what is kept of it.
func (i *instances) tell(st api.InstanceStatus, w machine.Wanted, named bool) (news bool) {
	if !named {
		if st.Spec = w.Spec; st.Spec == nil {
			st.Spec = i.m.Kept(st.UUID)
		}
	}
	return i.told.put(st)
}

// took has those instances looked at of which the set says something else now.
func (i *instances) took() {
	for _, uuid := range i.set.changes() {
		i.look(uuid)
	}
}

// watch is the goroutine that hears of units.
func (i *instances) watch(ctx context.Context) error {
	return i.a.Zones.Watch(ctx, func(all map[string]machine.State) {
		i.m.SawAll(all)
		i.gate.open(gateUnits)
	}, i.m.Saw)
}

// loader is the goroutine that lists what is on the pool, once there is one, and lets
// the workers begin.
func (i *instances) loader(ctx context.Context) error {
	retry := backoff{min: time.Second, max: time.Minute}
	for ctx.Err() == nil {
		err := i.loadPool(ctx)
		if err == nil {
			i.board.problem("instances", "")
			i.gate.open(gatePool)
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, storage.ErrNoPool) {
			select {
			case <-i.load:
			case <-ctx.Done():
			}
			continue
		}
		i.a.Log.Error("list instances", "err", err)
		i.board.problem("instances", "Instances were not started or changed, as the pool's datasets could not be listed: "+err.Error()+".")
		pause(ctx, retry.next())
	}
	return nil
}

func (i *instances) loadPool(ctx context.Context) error {
	defer i.a.health.busy("instances", stepLimit+stepLimit)()
	lctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	pool, err := i.a.Zones.Pool(lctx)
	if err != nil {
		return err
	}
	found, err := i.a.Zones.Datasets.Look(lctx)
	if err != nil {
		return err
	}
	if err := i.a.Zones.Datasets.Tidy(lctx, found); err != nil {
		i.a.Log.Warn("remove what imports of images left", "err", err)
	}
	known := make(map[string]*api.InstanceSpec, len(found.Instances))
	for _, f := range found.Instances {
		i.m.Remembered(f.UUID, machine.Past{Snapshots: f.Snapshots, Rolled: f.Rolled, Refused: f.Refused})
		var spec api.InstanceSpec
		known[f.UUID] = nil
		if err := json.Unmarshal(f.Spec, &spec); err == nil && strings.EqualFold(spec.UUID, f.UUID) {
			known[f.UUID] = &spec
		} else {
			i.a.Log.Error("what is kept with an instance's dataset is not its spec", "uuid", f.UUID, "problem", f.Problem, "err", err)
		}
	}
	var images []string
	for _, f := range found.Images {
		images = append(images, f.UUID)
	}
	i.m.Pool, i.m.Server = pool, i.a.UUID
	i.m.Known(known, images)
	for _, f := range found.Instances {
		var disks []string
		for _, d := range f.Disks {
			disks = append(disks, d.Name)
		}
		i.m.HasDisks(f.UUID, disks)
	}
	i.set.mu.Lock()
	all := slices.Collect(func(yield func(string) bool) {
		for uuid := range i.set.state.Items {
			if !yield(uuid) {
				return
			}
		}
		for uuid := range i.set.state.Gone {
			if !yield(uuid) {
				return
			}
		}
	})
	i.set.mu.Unlock()
	for _, uuid := range i.m.All() {
		w, named, _ := i.wanted(uuid)
		if spec := cmp.Or(w.Spec, i.m.Kept(uuid)); spec != nil {
			i.sold.put(uuid, spec.MemoryMiB)
		}
		i.tell(i.m.Status(uuid, w), w, named)
		wishes, _ := i.snapshots.wishes(uuid)
		i.told.snapshots(uuid, i.m.SnapshotStatuses(uuid, wishes))
	}
	poke(i.sold.news) // with no instance too
	i.told.begin()
	i.board.nudge()
	for _, uuid := range all {
		i.look(uuid)
	}
	return nil
}

// goDown stops all that runs, before the server goes down, and returns when it has
// stopped or downStop has passed: then systemd ends the rest.
func (i *instances) goDown(ctx context.Context) {
	i.mu.Lock()
	i.down = true
	i.mu.Unlock()
	i.images.gate.close(gateDown)
	running := i.m.Running()
	if len(running) == 0 {
		return
	}
	i.a.Log.Info("instances are stopped, as the server goes down", "number", len(running))
	ctx, cancel := context.WithTimeout(ctx, downStop)
	defer cancel()
	for _, uuid := range running {
		i.look(uuid)
	}
	for len(running) > 0 {
		select {
		case <-i.ended:
			running = i.m.Running()
		case <-ctx.Done():
			i.a.Log.Warn("instances run that were told to stop", "uuids", running)
			return
		}
	}
}
