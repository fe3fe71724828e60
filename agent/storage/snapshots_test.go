package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"nereid/api"
)

const (
	snapA = "000000000000000a"
	snapB = "000000000000000b"
)

func asked(id, name string) api.SnapshotStatus {
	return api.SnapshotStatus{ID: id, Name: name, Consistency: api.SnapshotAtomic, Schedule: api.SnapshotDaily}
}

// leave leaves a text in an instance, for good.
func (l *lab) leave(ctx context.Context, name, text string) error {
	dir, err := l.World.Mount(ctx, name, false)
	if err != nil {
		return err
	}
	err = errors.Join(os.WriteFile(filepath.Join(dir.Name(), "text"), []byte(text), 0o600), dir.Close())
	return errors.Join(err, l.World.Set(ctx, name, map[string]string{"synced": text}))
}

func (l *lab) left(t *testing.T, name string) string {
	t.Helper()
	dir, err := l.World.Mount(t.Context(), name, true)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir.Name(), "text"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestSnapshotsOfInstances: what a snapshot is is known from the pool alone; those of
// others are not ours; what is held, or cloned, stays and the error says of what; a
// rollback is all or nothing.
func TestSnapshotsOfInstances(t *testing.T) {
	l, r := rootsLab(t)
	ctx := t.Context()
	name := "zones/" + testInstance
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(r.CloneDisks(ctx, testInstance, []api.VMDisk{{Name: "disk0", SizeMiB: 8}}, 100))
	must(l.leave(ctx, name, "one"))
	for _, id := range []string{"", "x", "../../x", strings.Repeat("0", 33)} {
		if _, err := r.TakeSnapshot(ctx, testInstance, asked(id, "a")); err == nil {
			t.Errorf("a snapshot with the id %q", id)
		}
	}
	l.Calls()
	taken, err := r.TakeSnapshot(ctx, testInstance, asked(snapA, "a"))
	must(err)
	if calls := l.Calls(); len(calls) != 1 || taken.State != api.SnapshotCreated {
		t.Errorf("taken %+v by %q", taken, calls)
	}
	must(l.World.Snapshot(ctx, name, "byhand", true))
	must(l.World.Snapshot(ctx, name, "nereid-cafe0123", true)) // of the name of ours, and not ours
	must(l.leave(ctx, name, "two"))
	_, err = r.TakeSnapshot(ctx, testInstance, asked(snapB, "b"))
	must(err)
	again, err := r.TakeSnapshot(ctx, testInstance, asked(snapB, "other"))
	must(err)
	if again.Name != "b" || again.Created.IsZero() {
		t.Errorf("one that was there: %+v", again)
	}
	if _, err := r.TakeSnapshot(ctx, testInstance, asked("cafe0123", "c")); !errors.Is(err, ErrForeign) {
		t.Errorf("beside one that is not ours: %v", err)
	}
	found := func() FoundInstance {
		t.Helper()
		f, err := r.Look(ctx)
		must(err)
		return f.Instances[0]
	}
	names := func() string {
		var all []string
		for _, s := range found().Snapshots {
			all = append(all, fmt.Sprintf("%s %s %s %v", s.Name, s.Consistency, s.Schedule, !s.Created.IsZero()))
		}
		return strings.Join(all, ", ")
	}
	if got := names(); got != "a atomic daily true, b atomic daily true" {
		t.Errorf("found %s", got)
	}
	roll := func(id string, newer ...string) string {
		t.Helper()
		spec := api.RollbackSpec{ID: id, Snapshot: snapA, Name: "a", Newer: newer}
		check, err := r.CheckRollback(ctx, testInstance, spec)
		must(err)
		refused, err := r.RollBack(ctx, testInstance, spec)
		must(err)
		if check != refused {
			t.Errorf("it may: %q; it does: %q", check, refused)
		}
		return refused
	}
	if why := roll("r1", snapB); !strings.Contains(why, "@byhand is newer") {
		t.Errorf("with a newer one that is somebody's: %q", why)
	}
	must(r.EndRollback(ctx, testInstance, "r1"))
	must(l.DestroyAll(ctx, name, "byhand"))
	must(l.DestroyAll(ctx, name, "nereid-cafe0123"))
	if why := roll("r2"); !strings.Contains(why, snapB+" is newer") {
		t.Errorf("with a newer one that is not named: %q", why)
	}
	must(l.Hold(name+"/disk0@nereid-"+snapB, true))
	if why := roll("r2", snapB); !strings.Contains(why, "cannot go") {
		t.Errorf("with a newer one that is held: %q", why)
	}
	if err := r.DropSnapshot(ctx, testInstance, snapB); !errors.Is(err, syscall.EBUSY) || !strings.Contains(err.Error(), "disk0@nereid-"+snapB+" is held") {
		t.Errorf("a drop of one that is held: %v", err)
	}
	must(l.Hold(name+"/disk0@nereid-"+snapB, false))
	must(l.World.Clone(ctx, name+"@nereid-"+snapB, "zones/mine", nil))
	if err := r.DropSnapshot(ctx, testInstance, snapB); !errors.Is(err, syscall.EBUSY) || !strings.Contains(err.Error(), "zones/mine was cloned from") {
		t.Errorf("a drop of one that is cloned: %v", err)
	}
	must(l.World.Destroy(ctx, "zones/mine"))
	if got := names(); got != "a atomic daily true, b atomic daily true" || l.left(t, name) != "two" {
		t.Errorf("after what was refused: %s, %s", got, l.left(t, name))
	}
	must(r.CloneDisks(ctx, testInstance, []api.VMDisk{{Name: "disk1", SizeMiB: 8}}, 100)) // younger than the snapshot
	if why := roll("r2", snapB); why != "" {
		t.Errorf("refused: %s", why)
	}
	if f := found(); names() != "a atomic daily true" || l.left(t, name) != "one" || strings.Join(f.Rolled, " ") != "r1 r2" || !f.Refused["r1"] || f.Refused["r2"] || len(f.Disks) != 2 {
		t.Errorf("after the rollback: %s, %s, %+v", names(), l.left(t, name), f)
	}
	for range 2 {
		must(r.DropSnapshot(ctx, testInstance, snapA))
	}
	if why := roll("r3"); !strings.Contains(why, "there is no snapshot") {
		t.Errorf("to one that is gone: %q", why)
	}
	if got := l.sets(); strings.Contains(got, "@") {
		t.Errorf("left is\n%s", got)
	}
}

// TestRolled: as many rollbacks are remembered as can come one after another.
func TestRolled(t *testing.T) {
	value := ""
	for n := range 40 {
		value = withRolled(value, fmt.Sprintf("r%d", n))
		value = withRolled(value, fmt.Sprintf("!r%d", n))
	}
	done, refused := rolled(value)
	if len(done) != maxRolled || done[maxRolled-1] != "r39" || !refused["r24"] {
		t.Errorf("%q", value)
	}
}

// TestPowerLostInThePast is TestPowerLostAtEveryStep for snapshots and rollbacks.
func TestPowerLostInThePast(t *testing.T) {
	name := "zones/" + testInstance
	roll := api.RollbackSpec{ID: "r1", Snapshot: snapA, Name: "a", Newer: []string{snapB}}
	l, r := rootsLab(t)
	take := func(id string) func(context.Context, *lab, *Roots) error {
		return func(ctx context.Context, _ *lab, r *Roots) error {
			_, err := r.TakeSnapshot(ctx, testInstance, asked(id, id))
			return err
		}
	}
	powerLost(t, l, r, []powerStep{
		{"create", func(ctx context.Context, l *lab, r *Roots) error {
			return errors.Join(r.CloneDisks(ctx, testInstance, []api.VMDisk{{Name: "disk0", SizeMiB: 8}, {Name: "disk1", SizeMiB: 8}}, 100), l.leave(ctx, name, "one"))
		}, "instance 167 disk0 8 disk1 8 "},
		{"snapshot", take(snapA), "instance 167 disk0 8 disk1 8 @" + snapA + " "},
		{"snapshot", take(snapB), "instance 167 disk0 8 disk1 8 @" + snapA + " @" + snapB + " "},
		{"rollback", func(ctx context.Context, l *lab, r *Roots) error {
			f, err := r.Look(ctx)
			if err != nil || strings.Join(f.Instances[0].Rolled, "") == "r1" {
				return err // the agent looks before, and does not do it twice
			}
			why, err := r.RollBack(ctx, testInstance, roll)
			if why != "" {
				err = errors.Join(err, errors.New(why))
			}
			return err
		}, "instance 167 disk0 8 disk1 8 @" + snapA + " rolled r1 "},
		{"drop", func(ctx context.Context, _ *lab, r *Roots) error { return r.DropSnapshot(ctx, testInstance, snapA) }, "instance 167 disk0 8 disk1 8 rolled r1 "},
	})
}
