package agenttest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"nereid/api"
)

// ErrPower ends what is done when the power, or the agent, has gone.
var ErrPower = errors.New("agenttest: the agent was ended")

// Zones is a server's instances: what machine.Store and machine.Units make, and systemd
// tells of. It outlives agents, and prints itself.
type Zones struct {
	// Heard is told of each change of a unit, as systemd tells: in order, and by another
	// goroutine's leave. Nil: nobody hears.
	Heard func(name, state string, since time.Time)
	// Slow are units that do not end when they are told to.
	Slow map[string]bool
	// Fails are the calls that do not work, by their words.
	Fails map[string]error

	mu     sync.Mutex
	sets   map[string]*zoneSet
	units  map[string]string // state, by name
	calls  []string
	points int
	cut    int // point at which the agent ends; 0: never
	dead   bool
}

type zoneSet struct {
	image string
	quota int
	disks map[string]int // MiB, by name; nil: a zone's
	spec  string
	past  zonePast
}

// NewZones is a server without instances.
func NewZones() *Zones {
	return &Zones{sets: map[string]*zoneSet{}, units: map[string]string{}}
}

// CutAt has the agent end at the n-th point from here: before or after a change.
func (z *Zones) CutAt(n int) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.points, z.cut, z.dead = 0, n, false
}

// Cut reports whether the agent was ended.
func (z *Zones) Cut() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.dead
}

// PowerCut ends all that runs.
func (z *Zones) PowerCut() {
	z.mu.Lock()
	defer z.mu.Unlock()
	clear(z.units)
}

// Calls are the calls since the last call of Calls.
func (z *Zones) Calls() []string {
	z.mu.Lock()
	defer z.mu.Unlock()
	c := z.calls
	z.calls = nil
	return c
}

// States are the states of all units that there are.
func (z *Zones) States() map[string]string {
	z.mu.Lock()
	defer z.mu.Unlock()
	return maps.Clone(z.units)
}

// Specs are the texts that are kept with instances' datasets.
func (z *Zones) Specs() map[string][]byte {
	z.mu.Lock()
	defer z.mu.Unlock()
	all := map[string][]byte{}
	for uuid, s := range z.sets {
		all[uuid] = []byte(s.spec)
	}
	return all
}

// Add puts a dataset there that nobody made here.
func (z *Zones) Add(uuid, image, spec string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.sets[uuid] = &zoneSet{image: image, spec: spec}
}

// Lose takes a dataset away.
func (z *Zones) Lose(uuid string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	delete(z.sets, uuid)
}

// End is what happens to a unit by itself: it ends (inactive), fails, or runs.
func (z *Zones) End(name, state string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.become(name, state)
}

// become is a unit's change, which is told. z.mu is held.
func (z *Zones) become(name, state string) {
	if state == "inactive" {
		delete(z.units, name)
	} else {
		z.units[name] = state
	}
	if z.Heard != nil && !z.dead {
		z.Heard(name, state, time.Unix(1, 0))
	}
}

func (z *Zones) String() string {
	z.mu.Lock()
	defer z.mu.Unlock()
	var b strings.Builder
	for _, uuid := range slices.Sorted(maps.Keys(z.sets)) {
		s := z.sets[uuid]
		kept := ""
		if s.spec != "" {
			kept = " with spec"
		}
		disks := ""
		for _, name := range slices.Sorted(maps.Keys(s.disks)) {
			disks += fmt.Sprintf(" %s %d", name, s.disks[name])
		}
		fmt.Fprintf(&b, "dataset %s of %s quota %d%s%s%s\n", uuid, s.image, s.quota, disks, kept, s.past)
	}
	for _, name := range slices.Sorted(maps.Keys(z.units)) {
		fmt.Fprintf(&b, "unit %s %s\n", name, z.units[name])
	}
	return b.String()
}

// do makes a change that is there or not there when the agent ends.
func (z *Zones) do(ctx context.Context, call string, change func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	if err := z.point(); err != nil {
		return err
	}
	z.calls = append(z.calls, call)
	for words, err := range z.Fails {
		if strings.HasPrefix(call, words) {
			return err
		}
	}
	if err := change(); err != nil {
		return fmt.Errorf("%s: %w", call, err)
	}
	return z.point()
}

func (z *Zones) point() error {
	z.points++
	if z.dead = z.dead || z.points == z.cut; z.dead {
		return ErrPower
	}
	return nil
}

// CloneImage implements machine.Store.
func (z *Zones) CloneImage(ctx context.Context, image, uuid string, mib int) error {
	return z.do(ctx, "clone "+uuid+" of "+image, func() error {
		if z.sets[uuid] == nil {
			z.sets[uuid] = &zoneSet{image: image, quota: mib}
		}
		return nil
	})
}

// CloneDisks makes a virtual machine's dataset and disks, as storage.Roots does.
func (z *Zones) CloneDisks(ctx context.Context, uuid string, disks []api.VMDisk, mib int) error {
	call := "disks of " + uuid
	for _, d := range disks {
		call += fmt.Sprintf(" %s %d", d.Name, d.SizeMiB)
	}
	return z.do(ctx, call, func() error {
		s := z.sets[uuid]
		if s == nil {
			s = &zoneSet{quota: mib, disks: map[string]int{}}
			z.sets[uuid] = s
		}
		for _, d := range disks {
			if d.Image != "" {
				s.image = d.Image
			}
			s.disks[d.Name] = max(s.disks[d.Name], d.SizeMiB)
		}
		return nil
	})
}

// DropDisk destroys a disk, as storage.Roots does.
func (z *Zones) DropDisk(ctx context.Context, uuid, disk string) error {
	return z.do(ctx, "destroy "+uuid+"/"+disk, func() error {
		if s := z.sets[uuid]; s != nil {
			delete(s.disks, disk)
		}
		return nil
	})
}

// Disk is the device of a disk.
func (z *Zones) Disk(uuid, disk string) string { return "/dev/zvol/zones/" + uuid + "/" + disk }

// SetQuota implements machine.Store.
func (z *Zones) SetQuota(ctx context.Context, uuid string, mib int) error {
	return z.do(ctx, fmt.Sprintf("quota %s %d", uuid, mib), func() error { z.sets[uuid].quota = mib; return nil })
}

// KeepSpec implements machine.Store.
func (z *Zones) KeepSpec(ctx context.Context, uuid string, spec []byte) error {
	return z.do(ctx, "keep "+uuid, func() error { z.sets[uuid].spec = string(spec); return nil })
}

// DropInstance implements machine.Store.
func (z *Zones) DropInstance(ctx context.Context, uuid string) error {
	return z.do(ctx, "destroy "+uuid, func() error {
		for name := range z.units {
			if strings.Contains(name, uuid) {
				return errors.New("dataset is busy")
			}
		}
		delete(z.sets, uuid)
		return nil
	})
}

// Start implements machine.Units.
func (z *Zones) Start(ctx context.Context, name, dir string, l api.Limits) error {
	return z.do(ctx, "start "+name, func() error {
		if s, is := z.units[name]; is {
			return fmt.Errorf("the unit is there, %s", s)
		}
		z.become(name, "activating")
		if err := Begin(dir, fmt.Sprint(len(z.calls))); err != nil {
			return err
		}
		z.become(name, "active")
		return nil
	})
}

// Begin leaves what a zone's unit does when it starts one: what is set in it, which run
// it is, and that it ran.
func Begin(dir, run string) error {
	data, err := os.ReadFile(filepath.Join(dir, "in", "zone.json"))
	if os.IsNotExist(err) { // a virtual machine has nothing inside that is the server's
		return os.WriteFile(filepath.Join(dir, "started"), nil, 0o600)
	}
	for path, text := range map[string]string{"in/now.json": string(data), "up": run, "started": ""} {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, path), []byte(text), 0o600)
		}
	}
	return err
}

// Do makes a change of the test's own, which is there or not there when the agent ends.
func (z *Zones) Do(ctx context.Context, call string, change func()) error {
	return z.do(ctx, call, func() error { change(); return nil })
}

// Stop implements machine.Units.
func (z *Zones) Stop(ctx context.Context, name string) error {
	return z.do(ctx, "stop "+name, func() error {
		if z.units[name] == "" {
			return nil
		}
		z.become(name, "active") // what was on the way before
		z.become(name, "deactivating")
		if !z.Slow[name] {
			z.become(name, "inactive")
		}
		return nil
	})
}

// Signal implements machine.Units.
func (z *Zones) Signal(ctx context.Context, name, signal string) error {
	return z.do(ctx, signal+" "+name, func() error {
		if signal == "SIGKILL" && z.units[name] != "" {
			z.become(name, "failed")
		}
		return nil
	})
}

// Limit implements machine.Units.
func (z *Zones) Limit(ctx context.Context, name string, l api.Limits) error {
	return z.do(ctx, fmt.Sprintf("limit %s %d", name, l.MemoryMiB), func() error { return nil })
}

// Reset implements machine.Units.
func (z *Zones) Reset(ctx context.Context, name string) (string, error) {
	return "result signal", z.do(ctx, "reset "+name, func() error {
		if z.units[name] == "failed" {
			z.become(name, "inactive")
		}
		return nil
	})
}
