package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"nereid/agent/agenttest"
	"nereid/agent/machine"
	"nereid/agent/storage"
	"nereid/api"
)

// zoneWorld is a server's instances and images, which outlive agents.
type zoneWorld struct {
	*agenttest.Zones
	w *world

	sold atomic.Int64 // what ZFS's cache leaves to instances

	mu       sync.Mutex
	images   map[string]string // bytes, by UUID
	imported []string
	wait     chan struct{} // an import waits for it, when it is not nil
}

func newZoneWorld(w *world) *zoneWorld {
	return &zoneWorld{Zones: agenttest.NewZones(), w: w, images: map[string]string{}}
}

func (z *zoneWorld) Look(context.Context) (f storage.Found, err error) {
	for uuid, spec := range z.Specs() {
		i := storage.FoundInstance{UUID: uuid, Spec: spec}
		i.Snapshots, i.Rolled, i.Refused = z.Past(uuid)
		f.Instances = append(f.Instances, i)
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	for uuid := range z.images {
		f.Images = append(f.Images, storage.FoundImage{UUID: uuid})
	}
	return f, nil
}

func (z *zoneWorld) Tidy(context.Context, storage.Found) error { return nil }

// Collect takes away all that are not to be kept.
func (z *zoneWorld) Collect(_ context.Context, _ storage.Collection, f storage.Found, keep func(string) bool, size, used int64) (gone []string, err error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, i := range f.Images {
		if !keep(i.UUID) && used > size/2 {
			delete(z.images, i.UUID)
			gone = append(gone, i.UUID)
		}
	}
	return gone, nil
}

// TestImagesCollected: once an hour images go that nobody wants; one that the head node
// names stays, and so does one that an instance waits for; one that went is fetched when
// it is wanted again.
func TestImagesCollected(t *testing.T) {
	a := &Agent{Log: slog.New(slog.DiscardHandler), health: newHealth()}
	z := newZoneWorld(nil)
	a.Zones = Zones{Machines: &machine.Machines{Store: z, Units: z, Dir: t.TempDir()}, Datasets: z,
		Space: func(context.Context) (int64, int64, error) { return 100, 90, nil }}
	i := newInstances(a, newBoard(api.Report{}))
	i.images.set.state.Items = map[string]api.ImageSpec{"named": {UUID: "named"}}
	i.images.wait["waited"] = map[string]bool{"a": true}
	for _, image := range []string{"named", "waited", "unused"} {
		z.images[image] = image
		i.m.ImageThere(image, true)
	}
	for range 2 {
		if err := i.images.collect(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for image, want := range map[string]bool{"named": true, "waited": true, "unused": false} {
		if _, is := z.images[image]; is != want || i.m.HasImage(image) != want {
			t.Errorf("image %s: on the pool %v, known to be %v, want %v", image, is, i.m.HasImage(image), want)
		}
	}
}

func (z *zoneWorld) ImportImage(ctx context.Context, spec api.ImageSpec, r io.Reader, progress func(int64)) error {
	progress(1)
	if z.wait != nil {
		select {
		case <-z.wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	time.Sleep(imageTell)
	progress(spec.File.Size / 2)
	time.Sleep(imageTell)
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if string(b) != "bytes of "+spec.UUID {
		return errors.New("the digest is another one")
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	z.images[spec.UUID] = string(b)
	z.imported = append(z.imported, spec.UUID)
	return nil
}

func (z *zoneWorld) pool(ctx context.Context) (string, error) {
	pools, err := z.w.Pools(ctx)
	if err != nil || len(pools) == 0 {
		return "", storage.ErrNoPool
	}
	return pools[0].Name, nil
}

func (z *zoneWorld) watch(ctx context.Context, all func(map[string]machine.State), one func(string, string, time.Time)) error {
	z.Heard = one
	states := map[string]machine.State{}
	for name, s := range z.States() {
		states[name] = machine.State{Active: s, Since: time.Unix(1, 0)}
	}
	all(states)
	<-ctx.Done()
	return nil
}

// zones gives an agent the world's instances.
func (z *zoneWorld) zones(dir string) func(*Agent) {
	return func(a *Agent) {
		a.Zones = Zones{Machines: &machine.Machines{Store: z, Snapshots: z, Units: z, Dir: dir + "/zones"}, Datasets: z, Pool: z.pool, Watch: z.watch,
			FitCache: func(sold int64) error { z.sold.Store(sold); return nil }}
	}
}

// withSets gives a head node the sets of instances and images.
func (h *fakeHead) withSets() (instances, images *fakeSet) {
	instances, images = &fakeSet{epoch: "e1"}, &fakeSet{epoch: "e1"}
	h.sets = map[string]*fakeSet{api.InstanceSet(testUUID): instances, api.ImageSet(testUUID): images}
	h.files = map[string]string{"img": "bytes of img"}
	return instances, images
}

func instanceSpec(uuid string) api.InstanceSpec {
	return api.InstanceSpec{UUID: uuid, Name: uuid, Hostname: uuid, Brand: api.BrandLX, Image: "img", Wanted: api.InstanceRunning,
		Limits: api.Limits{MemoryMiB: 64, VCPUs: 1, QuotaMiB: 100}}
}

var imageSpec = api.ImageSpec{UUID: "img", Name: "debian 1", Type: api.ImageLXDataset, File: api.ImageFile{Format: api.FormatTar, Size: 60e6}}

// states are the states of instances that the head node was told of.
func (h *fakeHead) states() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []string
	for _, uuid := range slices.Sorted(maps.Keys(h.told)) {
		all = append(all, uuid+" "+h.told[uuid].State)
	}
	return strings.Join(all, ", ")
}

// told waits until the head node knows these states.
func (h *fakeHead) untilStates(want string) {
	h.t.Helper()
	h.until("states "+want, func(api.SyncRequest) bool { return h.states() == want })
}

// TestInstances: what the set names is made, its image is fetched once however many wait
// for it, and the head node is told of each change and no more; what the set does not
// name any more runs on and is told of with its spec; only a tombstone removes.
func TestInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, dir := newWorld(), newHeadNode(t), t.TempDir()
		z := newZoneWorld(w)
		instances, images := h.withSets()
		h.approved, h.spec = true, setupSpec("r1")
		images.put("img", imageSpec)
		for n := range 4 {
			uuid := fmt.Sprint("a", n)
			instances.put(uuid, instanceSpec(uuid))
		}
		z.Add("stranger", "x", "")
		z.wait = make(chan struct{})
		r := start(t, w, h, dir, z.zones(dir))
		const all = "a0 running, a1 running, a2 running, a3 running, stranger stopped"
		h.untilStates("a0 provisioning, a1 provisioning, a2 provisioning, a3 provisioning, stranger stopped")
		close(z.wait)
		h.until("progress", func(api.SyncRequest) bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return strings.Contains(h.told["a1"].Reason, "debian 1, 30 of 60 MB are there")
		})
		h.untilStates(all)
		h.until("kept", func(s api.SyncRequest) bool {
			return len(s.Follow) == 6 && s.Follow[1].Kept == 4 && s.Follow[2].Kept == 1 && s.Instances == nil
		})
		if !slices.Equal(h.fetched, []string{"img"}) || h.fulls != 1 {
			t.Errorf("fetched %q; %d full reports", h.fetched, h.fulls)
		}

		// One ends by itself, and is the only one that is told of.
		z.Calls()
		z.End(machine.Unit("a2"), "inactive")
		s := h.until("stopped", func(s api.SyncRequest) bool { return s.Instances != nil && len(s.Instances.Put) > 0 })
		if len(s.Instances.Put) != 1 || s.Instances.Full || s.Instances.Put[0].State != api.InstanceStopped || len(z.Calls()) > 0 {
			t.Errorf("told of %+v", s.Instances)
		}

		// A head node that forgot one, and one that does not know what it was told.
		h.set(func() {
			instances.epoch, instances.version, instances.changes = "e2", 0, nil
			for _, uuid := range []string{"a0", "a2", "a3"} {
				instances.put(uuid, instanceSpec(uuid))
			}
			h.seen, h.told = "", nil
		})
		h.until("unexpected", func(api.SyncRequest) bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.told["a1"].Spec != nil && h.told["a1"].Spec.Name == "a1" && h.told["a0"].Spec == nil && len(h.told) == 5
		})
		h.set(func() { instances.put("a0", nil); instances.put("stranger", nil); instances.put("never", nil) })
		h.untilStates("a1 running, a2 stopped, a3 running")
		if got := z.String(); strings.Contains(got, "a0") || strings.Contains(got, "stranger") || !strings.Contains(got, "unit nereid-zone-a1.service active") {
			t.Errorf("there is\n%s", got)
		}
		h.until("acknowledged", func(s api.SyncRequest) bool {
			r.instances.set.mu.Lock()
			defer r.instances.set.mu.Unlock()
			return len(r.instances.set.state.Gone) == 0 && s.Follow[1].Kept == 6
		})
		// What comes late of one that is gone is not told.
		z.Heard(machine.Unit("a0"), "failed", time.Time{})
		r.instances.look("a0")
		synctest.Wait()
		h.untilStates("a1 running, a2 stopped, a3 running")
		if r.instances.told.knows("a0") {
			t.Error("an instance that is gone is told of again")
		}
		if got := z.sold.Load(); got != 3*64<<20 {
			t.Errorf("ZFS's cache leaves %d MiB to instances", got>>20)
		}
		// A restarted agent does nothing, and tells all once more.
		z.Calls()
		r.stop()
		h.set(func() { h.told, h.fulls = nil, 0 })
		r = start(t, w, h, dir, z.zones(dir))
		h.untilStates("a1 running, a2 stopped, a3 running")
		if got := z.sold.Load(); got != 3*64<<20 {
			t.Errorf("after a restart ZFS's cache leaves %d MiB to instances", got>>20)
		}
		if calls := z.Calls(); len(calls) > 0 || h.fulls != 1 {
			t.Errorf("a restarted agent did %q, and told all %d times", calls, h.fulls)
		}
		r.stop()
	})
}

// TestInstancesAlone: after a boot with the head node away, what is to run runs, from
// what is on the pool; without the pool nothing is done.
func TestInstancesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, dir := newWorld(), newHeadNode(t), t.TempDir()
		z := newZoneWorld(w)
		instances, images := h.withSets()
		h.approved, h.spec = true, setupSpec("r1")
		images.put("img", imageSpec)
		off := instanceSpec("a2")
		off.Wanted = api.InstanceStopped
		instances.put("a1", instanceSpec("a1"))
		instances.put("a2", off)
		r := start(t, w, h, dir, z.zones(dir))
		h.untilStates("a1 running, a2 stopped")
		h.until("kept", func(s api.SyncRequest) bool { return s.Follow[1].Kept == 2 })
		r.stop()
		for _, lost := range []string{"", instancesFile} { // the set's log, of which the datasets' specs are independent
			z.PowerCut()
			h.set(func() { h.down = true; h.boot.BootID = "boot-" + lost })
			delete(w.config, lost)
			next := t.TempDir()
			r = start(t, w, h, next, z.zones(next))
			time.Sleep(time.Minute)
			if got := z.States(); len(got) != 1 || got[machine.Unit("a1")] != "active" {
				t.Errorf("without %q: %v run", lost, got)
			}
			r.stop()
		}
	})
}

// TestInstancesDown: before the server goes down what runs is stopped, and is not
// started again by an agent that starts meanwhile; one that does not stop is not waited
// for for ever.
func TestInstancesDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, dir := newWorld(), newHeadNode(t), t.TempDir()
		z := newZoneWorld(w)
		instances, images := h.withSets()
		h.approved, h.spec = true, setupSpec("r1")
		images.put("img", imageSpec)
		for _, uuid := range []string{"a1", "a2"} {
			instances.put(uuid, instanceSpec(uuid))
		}
		r := start(t, w, h, dir, z.zones(dir))
		h.untilStates("a1 running, a2 running")
		z.Slow = map[string]bool{machine.Unit("a2"): true}
		w.did()
		begun := time.Now()
		h.set(func() {
			s := *h.spec
			s.Revision, s.Power = "r2", &api.PowerSpec{ID: "p", Action: "reboot", BootID: "boot1"}
			h.spec = &s
		})
		for !strings.Contains(w.did(), "reboot") {
			time.Sleep(time.Second)
		}
		if took := time.Since(begun); took < downStop || took > downStop+tellLimit+10*time.Second {
			t.Errorf("it went down after %v", took)
		}
		if got := z.States(); len(got) != 1 || got[machine.Unit("a2")] != "deactivating" {
			t.Errorf("%v run", got)
		}
		r.stop()
		r = start(t, w, h, dir, z.zones(dir))
		time.Sleep(10 * time.Second)
		if got := z.States(); got[machine.Unit("a1")] != "" {
			t.Errorf("%v run after a restart of the agent", got)
		}
		r.stop()
	})
}

// TestInstancesImage: an image that cannot be fetched is tried again, and those that
// wait for it say why.
func TestInstancesImage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, dir := newWorld(), newHeadNode(t), t.TempDir()
		z := newZoneWorld(w)
		instances, images := h.withSets()
		h.approved, h.spec = true, setupSpec("r1")
		h.files["img"] = "other bytes"
		instances.put("a1", instanceSpec("a1"))
		r := start(t, w, h, dir, z.zones(dir))
		why := func(text string) {
			t.Helper()
			h.until(text, func(api.SyncRequest) bool {
				h.mu.Lock()
				defer h.mu.Unlock()
				return strings.Contains(h.told["a1"].Reason, text)
			})
		}
		why("did not name it yet")
		h.set(func() { images.put("img", imageSpec) })
		why("the digest is another one")
		h.set(func() { h.files["img"] = "bytes of img" })
		h.untilStates("a1 running")
		r.stop()
	})
}

// TestInstanceLog: whatever is lost on the way, the head node knows in the end what is
// there, and a change costs one entry.
func TestInstanceLog(t *testing.T) {
	l := newInstanceLog()
	if l.report(nil) != nil {
		t.Error("a report before all is known")
	}
	l.begin()
	h := &fakeHead{}
	for n := range 3000 {
		uuid := fmt.Sprint("a", n%50)
		if n%7 == 3 {
			l.gone(uuid)
		} else {
			l.put(api.InstanceStatus{UUID: uuid, State: fmt.Sprint(n / 50)})
		}
		r := l.report(nil)
		if r != nil && n > 10 && n%11 > 3 && !r.Full && len(r.Put)+len(r.Gone) > 8 {
			t.Fatalf("at %d the report has %d entries", n, len(r.Put)+len(r.Gone))
		}
		if n%11 == 1 {
			continue // the request was lost
		}
		h.takeInstances(r)
		if n%501 == 500 {
			h.seen = "" // the head node began anew
		}
		if n%11 != 2 { // the answer was not
			l.heard(h.seen)
		}
	}
	for range 3 {
		h.takeInstances(l.report(nil))
		l.heard(h.seen)
	}
	if !maps.EqualFunc(h.told, l.all, func(a, b api.InstanceStatus) bool { return a.State == b.State }) || l.report(nil) != nil {
		t.Errorf("the head node knows %d, and there are %d", len(h.told), len(l.all))
	}
}
