package machine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"nereid/agent/machine/qmp"
	"nereid/agent/machine/vm"
	"nereid/api"
)

// Hot changes what a machine has while it runs; vm.QEMU does. Its methods may be called
// again after a failure.
type Hot interface {
	Look(ctx context.Context) (vm.Has, error)
	Add(ctx context.Context, d vm.Device) error
	// Remove may leave a device with the guest, which was asked for it then.
	Remove(ctx context.Context, d vm.Device) error
	Grow(ctx context.Context, disk string, mib int) error
}

// connection is that with a machine's QEMU. What is seen by it is noted in the order in
// which it was seen.
type connection struct {
	mu sync.Mutex // one look or change at a time
	Hot
}

// Of devices that come and go.
const (
	hotLimit = 45 * time.Second // for one, with the wait for a disk's name
	askAgain = time.Minute      // after which a guest that keeps a device is asked once more
)

// The steps of a machine that runs.
type (
	stepPlug   struct{ Device vm.Device }
	stepUnplug struct{ Device vm.Device }
	stepGrow   struct {
		Disk string
		MiB  int
	}
	stepDrop struct{ Disk string } // a volume that nothing has open
)

func (s stepPlug) String() string   { return "plug " + s.Device.String() }
func (s stepUnplug) String() string { return "unplug " + s.Device.String() }
func (s stepGrow) String() string   { return fmt.Sprintf("tell that %s has %d MiB", s.Disk, s.MiB) }
func (s stepDrop) String() string   { return "destroy " + s.Disk }

// hotBegin has a machine changed by hot while it runs, until hotEnd.
func (m *Machines) hotBegin(uuid string, hot Hot) *connection {
	c := &connection{Hot: hot}
	m.note(uuid, func(i *instance) { i.conn, i.hot = c, nil })
	return c
}

func (m *Machines) hotEnd(uuid string, c *connection) {
	m.note(uuid, func(i *instance) {
		if i.conn == c {
			i.conn, i.hot = nil, nil
		}
	})
}

// see looks at what a machine has, and tells when that is news. What QEMU refuses is
// logged: nothing of such a machine is changed while it runs.
func (m *Machines) see(ctx context.Context, uuid string, c *connection) error {
	c.mu.Lock()
	news, err := m.seeLocked(ctx, uuid, c)
	c.mu.Unlock()
	var refused *qmp.Error
	if errors.As(err, &refused) {
		m.log().Error("a machine is not changed while it runs", "uuid", uuid, "err", err)
		return nil
	}
	if err == nil && news {
		m.changed(uuid)
	}
	return err
}

func (m *Machines) seeLocked(ctx context.Context, uuid string, c *connection) (news bool, err error) {
	has, err := c.Look(ctx)
	if err != nil {
		return false, err
	}
	m.note(uuid, func(i *instance) {
		if i.conn != c {
			return
		}
		news = i.hot == nil || !maps.Equal(i.hot.Disks, has.Disks) || !maps.Equal(i.hot.NICs, has.NICs)
		i.hot = &has
		i.asked = maps.Clone(i.asked)
		maps.DeleteFunc(i.asked, func(name string, _ time.Time) bool { return !keeps(has, name) })
	})
	return news, nil
}

// keeps reports whether a guest has a device of a name that vm.Device has.
func keeps(has vm.Has, name string) bool {
	if mac, is := strings.CutPrefix(name, vm.NIC{}.String()); is {
		return has.NICs[mac].Device
	}
	return has.Disks[name].Device
}

// change does a step of a machine that runs, and notes what it has then.
func (m *Machines) change(ctx context.Context, uuid string, s step) error {
	m.mu.Lock()
	c := m.find(uuid).conn
	m.mu.Unlock()
	if c == nil {
		return errors.New("its QEMU cannot be reached now; it is tried again")
	}
	ctx, cancel := context.WithTimeout(ctx, hotLimit)
	defer cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	switch s := s.(type) {
	case stepPlug:
		err = c.Add(ctx, s.Device)
	case stepUnplug:
		err = c.Remove(ctx, s.Device)
	case stepGrow:
		err = c.Grow(ctx, s.Disk, s.MiB)
	}
	_, serr := m.seeLocked(ctx, uuid, c)
	if s, is := s.(stepUnplug); is && err == nil && serr == nil {
		m.note(uuid, func(i *instance) {
			if name := s.Device.String(); i.hot != nil && keeps(*i.hot, name) {
				i.asked = maps.Clone(i.asked)
				if i.asked == nil {
					i.asked = map[string]time.Time{}
				}
				i.asked[name] = time.Now()
				time.AfterFunc(askAgain, func() { m.changed(uuid) })
			}
		})
	}
	return errors.Join(err, serr)
}

// change are the steps by which a machine that runs becomes what is wanted, as far as that
// goes while it does, and what is waited for.
func (s seen) change(spec *api.InstanceSpec, want *vm.Start) (steps []step, wait string) {
	if s.hot == nil || want == nil {
		return nil, ""
	}
	asked := func(d vm.Device, has bool) bool {
		at, is := s.asked[d.String()]
		return has && is && s.at.Sub(at) < askAgain
	}
	remove := func(d vm.Device, has bool) {
		if !asked(d, has) {
			steps = append(steps, stepUnplug{d})
		}
	}
	disks, nics := map[string]vm.Disk{}, map[string]vm.NIC{}
	for _, d := range want.Disks {
		disks[d.Name] = d
	}
	for _, n := range want.NICs {
		nics[n.MAC] = n
	}
	taken := map[int]bool{} // slots of NICs that are to go
	for _, mac := range slices.Sorted(maps.Keys(s.hot.NICs)) {
		n, h := vm.NIC{MAC: mac}, s.hot.NICs[mac]
		_, goes := s.asked[n.String()]
		if _, wanted := nics[mac]; !wanted || h.Device && goes {
			taken[h.Slot] = taken[h.Slot] || h.Device
			remove(n, h.Device)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.hot.Disks)) {
		if _, wanted := disks[name]; !wanted {
			slot, _ := numbered(name, "disk")
			remove(vm.Disk{Name: name, Slot: slot}, s.hot.Disks[name].Device)
		}
	}
	for _, d := range disksOf(spec) {
		switch h := s.hot.Disks[d.Name]; {
		case !h.Device:
			steps = append(steps, stepPlug{disks[d.Name]})
		case h.MiB < d.SizeMiB:
			steps = append(steps, stepGrow{d.Name, d.SizeMiB})
		}
	}
	for _, n := range want.NICs {
		switch {
		case s.hot.NICs[n.MAC].Device || taken[n.Slot]:
		case slices.ContainsFunc(s.waits, func(mac string) bool { return strings.EqualFold(mac, n.MAC) }):
			wait = "NIC"
		default:
			steps = append(steps, stepPlug{n})
		}
	}
	return steps, wait
}

// drops are the steps that destroy the disks that are named as those that go, and no other
// ones: each once nothing has it open.
func (s seen) drops(spec *api.InstanceSpec) (steps []step) {
	if spec.VM == nil || !s.dataset || s.unit == unitStarts || s.unit == unitStops || s.unit == unitRuns && s.hot == nil {
		return nil
	}
	for _, disk := range spec.VM.Dropped {
		if s.unit == unitRuns {
			if _, is := s.hot.Disks[disk]; is {
				continue
			}
		}
		if !s.dropped[disk] {
			steps = append(steps, stepDrop{disk})
		}
	}
	return steps
}

// drop destroys a disk.
func (m *Machines) drop(ctx context.Context, uuid, disk string) error {
	if m.Disks == nil {
		return errors.New("this agent makes no volumes")
	}
	if err := m.Disks.DropDisk(ctx, uuid, disk); err != nil {
		return err
	}
	m.note(uuid, func(i *instance) {
		i.dropped = maps.Clone(i.dropped)
		if i.dropped == nil {
			i.dropped = map[string]bool{}
		}
		i.dropped[disk] = true
	})
	return nil
}

// HasDisks takes in the disks that an instance has on the pool: of those that are to go,
// the others are gone.
func (m *Machines) HasDisks(uuid string, disks []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.find(uuid)
	if i.kept == nil || i.kept.VM == nil {
		return
	}
	i.dropped = map[string]bool{}
	for _, disk := range i.kept.VM.Dropped {
		if !slices.Contains(disks, disk) {
			i.dropped[disk] = true
		}
	}
}

// guestKeeps says what a guest was asked to let go of, and has not; empty: nothing.
func (s seen) guestKeeps() string {
	if len(s.asked) == 0 {
		return ""
	}
	names := slices.Sorted(maps.Keys(s.asked))
	last := s.asked[names[0]]
	for _, at := range s.asked {
		if at.After(last) {
			last = at
		}
	}
	waits, it, goes := "waits", "it", "it goes"
	if len(names) > 1 {
		waits, it, goes = "wait", "them", "they go"
	}
	return fmt.Sprintf("%s %s for the guest, which was last asked at %s to let go of %s; at the latest %s when the guest boots again.",
		capitalFirst(strings.Join(names, ", ")), waits, last.UTC().Format(time.RFC3339), it, goes)
}

func capitalFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
