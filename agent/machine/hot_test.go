package machine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"nereid/agent/machine/vm"
	"nereid/api"
)

// fakeQEMU is a QEMU that outlives agents, whose guest lets go of devices, or does not.
type fakeQEMU struct {
	s     *server
	keeps bool
	has   vm.Has
}

func (q *fakeQEMU) Look(context.Context) (vm.Has, error) {
	return vm.Has{Disks: maps.Clone(q.has.Disks), NICs: maps.Clone(q.has.NICs)}, nil
}

func (q *fakeQEMU) Add(ctx context.Context, d vm.Device) error {
	if d, is := d.(vm.Disk); is && !strings.Contains(q.s.zones.String(), d.Name) {
		return fmt.Errorf("there is no volume %s", d.Name)
	}
	return q.s.zones.Do(ctx, "plug "+d.String(), func() {
		switch d := d.(type) {
		case vm.Disk:
			q.has.Disks[d.Name] = vm.HasDisk{Device: true, MiB: 20}
		case vm.NIC:
			q.has.NICs[d.MAC] = vm.HasNIC{Device: true, Slot: d.Slot}
		}
	})
}

func (q *fakeQEMU) Remove(ctx context.Context, d vm.Device) error {
	return q.s.zones.Do(ctx, "unplug "+d.String(), func() {
		if !q.keeps {
			q.letsGo(d)
		}
	})
}

func (q *fakeQEMU) letsGo(d vm.Device) {
	switch d := d.(type) {
	case vm.Disk:
		delete(q.has.Disks, d.Name)
	case vm.NIC:
		delete(q.has.NICs, d.MAC)
	}
}

func (q *fakeQEMU) Grow(ctx context.Context, disk string, mib int) error {
	return q.s.zones.Do(ctx, fmt.Sprint("grow ", disk, " ", mib), func() { q.has.Disks[disk] = vm.HasDisk{Device: true, MiB: mib} })
}

func (q *fakeQEMU) String() string {
	return fmt.Sprint(slices.Sorted(maps.Keys(q.has.Disks)), q.has.Disks, slices.Sorted(maps.Keys(q.has.NICs)))
}

// newQEMU is that of machine a as it started.
func newQEMU(s *server) *fakeQEMU {
	return &fakeQEMU{s: s, has: vm.Has{
		Disks: map[string]vm.HasDisk{"disk0": {Device: true, MiB: 10}, "disk1": {Device: true, MiB: 20}},
		NICs:  map[string]vm.HasNIC{"02:00:00:00:00:01": {Device: true, Slot: 15}}}}
}

// connect has the agent of now connected with a machine's QEMU.
func (s *server) connect(q *fakeQEMU) *connection {
	s.t.Helper()
	c := s.m.hotBegin("a", q)
	if err := s.m.see(s.t.Context(), "a", c); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// TestHotCut: an agent that ends at any point of giving a machine that runs a disk and a
// NIC, of growing one and of taking them away does what is left the next time; the machine
// is not started anew, has what is wanted, and nothing is done once more.
func TestHotCut(t *testing.T) {
	spec := machineOf("a")
	vmOf := func(i *api.InstanceSpec, f func(*api.VM)) {
		v := *i.VM
		v.Disks = slices.Clone(v.Disks)
		f(&v)
		i.VM = &v
	}
	more := api.InstanceNIC{Interface: "net1", MAC: "02:00:00:00:00:02"}
	stages := []struct {
		w    Wanted
		has  string
		sets string
	}{
		{(&server{}).with(spec, func(i *api.InstanceSpec) {
			vmOf(i, func(v *api.VM) { v.Disks = append(v.Disks, api.VMDisk{Name: "disk2", SizeMiB: 20}) })
			i.NICs = append(slices.Clone(i.NICs), more)
		}), "[disk0 disk1 disk2] map[disk0:{true 10 false} disk1:{true 20 false} disk2:{true 20 false}] [02:00:00:00:00:01 02:00:00:00:00:02]", "disk0 10 disk1 20 disk2 20"},
		{(&server{}).with(spec, func(i *api.InstanceSpec) {
			vmOf(i, func(v *api.VM) {
				v.Disks, v.Dropped = []api.VMDisk{v.Disks[0], {Name: "disk2", SizeMiB: 30}}, []string{"disk1"}
			})
			i.NICs = []api.InstanceNIC{more}
		}), "[disk0 disk2] map[disk0:{true 10 false} disk2:{true 30 false}] [02:00:00:00:00:02]", "disk0 10 disk2 30"},
	}
	for at := range stages {
		cut := true
		for n := 1; cut; n++ {
			s := newServer(t)
			s.set(Wanted{Spec: spec}, "a")
			q := newQEMU(s)
			s.connect(q)
			for _, stage := range stages[:at] {
				s.set(stage.w, "a")
			}
			s.zones.Calls()
			s.zones.CutAt(n)
			s.set(stages[at].w, "a")
			cut = s.zones.Cut()
			s.zones.CutAt(0)
			s.restart()
			s.connect(q)
			for _, stage := range stages[at:] {
				st, _ := s.set(stage.w, "a")
				if q.String() != stage.has || st.State != api.InstanceRunning || st.Reason != "" || !strings.Contains(s.zones.String(), stage.sets+" with") {
					t.Fatalf("stage %d, cut %d: %+v\nhas  %s\nwant %s\n%s", at, n, st, q, stage.has, s.zones)
				}
				if calls := strings.Join(s.zones.Calls(), "; "); strings.Contains(calls, "start") || strings.Contains(calls, "stop") {
					t.Fatalf("stage %d, cut %d: did %s", at, n, calls)
				}
				s.restart()
				s.m.HasDisks("a", []string{"disk0", "disk2"})
				s.connect(q)
				if s.set(stage.w, "a"); at == 1 && len(s.zones.Calls()) > 0 {
					t.Fatalf("stage %d, cut %d: something is done once more", at, n)
				}
			}
		}
	}
}

// TestGuestKeeps: a disk that its guest does not let go of is not destroyed, which is told
// with when it was asked; the guest is asked once more after some time, and with the machine's end
// the disk goes.
func TestGuestKeeps(t *testing.T) {
	s := newServer(t)
	spec := machineOf("a")
	s.set(Wanted{Spec: spec}, "a")
	q := newQEMU(s)
	q.keeps = true
	c := s.connect(q)
	less := s.with(spec, func(i *api.InstanceSpec) {
		v := *i.VM
		i.VM, v.Disks, v.Dropped = &v, v.Disks[:1], []string{"disk1"}
	})
	s.zones.Calls()
	st, _ := s.set(less, "a")
	if st.State != api.InstanceRunning || !strings.Contains(st.Reason, "Disk1 waits for the guest, which was last asked at ") {
		t.Errorf("%+v", st)
	}
	did := func(what, want string) {
		t.Helper()
		if calls := strings.Join(s.zones.Calls(), "; "); calls != want {
			t.Errorf("%s: did %s, want %s", what, calls, want)
		}
	}
	did("a guest that keeps it", "disks of a disk0 10; keep a; unplug disk1")
	s.set(less, "a")
	did("soon after", "")
	s.m.note("a", func(i *instance) { i.asked = map[string]time.Time{"disk1": time.Now().Add(-askAgain)} })
	s.set(less, "a")
	did("later", "unplug disk1")
	q.letsGo(vm.Disk{Name: "disk1"})
	if err := s.m.see(t.Context(), "a", c); err != nil || !s.dirty {
		t.Errorf("that it let go is told: %v, %v", s.dirty, err)
	}
	if st, _ = s.set(less, "a"); st.Reason != "" {
		t.Errorf("%+v", st)
	}
	did("gone", "destroy a/disk1")
	// What was connected before is heard of no more.
	s.m.hotEnd("a", c)
	if err := s.m.see(t.Context(), "a", c); err != nil || s.m.all["a"].hot != nil {
		t.Errorf("%v", err)
	}
	// Stopped, what is to go goes at once.
	s.set(s.with(spec, func(i *api.InstanceSpec) {
		v := *i.VM
		i.VM, v.Disks, v.Dropped, i.Wanted = &v, v.Disks[:1], []string{"disk1", "disk3"}, api.InstanceStopped
	}), "a")
	did("stopped", "keep a; stop nereid-vm-a.service; destroy a/disk3")
}

// TestHung: a QEMU that has not answered for so long that it never will is ended, if its
// machine is to be started again, and no other one is.
func TestHung(t *testing.T) {
	for _, tt := range []struct {
		restart string
		since   time.Duration
		calls   string
	}{
		{api.RestartOnFailure, hungLimit - time.Second, ""},
		{api.RestartNo, 2 * hungLimit, ""},
		{api.RestartOnFailure, hungLimit + time.Second, "SIGKILL nereid-vm-a.service"},
	} {
		s := newServer(t)
		spec := machineOf("a")
		spec.Restart = tt.restart
		s.set(Wanted{Spec: spec}, "a")
		s.zones.Calls()
		s.m.trouble(t.Context(), "a", context.DeadlineExceeded, time.Now().Add(-tt.since))
		if calls := strings.Join(s.zones.Calls(), "; "); calls != tt.calls {
			t.Errorf("%s after %v: did %q, want %q", tt.restart, tt.since, calls, tt.calls)
		}
		if st := s.m.Status("a", Wanted{Spec: spec}); tt.calls == "" && !strings.Contains(st.Reason, "has not answered since") {
			t.Errorf("%+v", st)
		}
	}
}
