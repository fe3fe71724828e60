//go:build vm

package storage

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"nereid/api"
)

// snapshotIDs are those that an instance has, by what Look says.
func snapshotIDs(t *testing.T, r *Roots, instance string) (ids []string, f FoundInstance) {
	t.Helper()
	found, err := r.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range found.Instances {
		if i.UUID == instance {
			f = i
			for _, s := range i.Snapshots {
				ids = append(ids, s.ID)
			}
		}
	}
	return ids, f
}

// poolSnapshots: a file of a zone is back after a rollback, which is not done beside a
// newer snapshot that is not named, held, or a clone's origin, nor while it is mounted.
func poolSnapshots(t *testing.T, r *Roots) {
	t.Helper()
	ctx := t.Context()
	pool, _ := r.Pool(ctx)
	name := pool + "/" + poolInstance
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v %s", args, err, out)
		}
	}
	write := func(text string) {
		t.Helper()
		to, err := r.Files(ctx, poolInstance)
		if err == nil {
			err = errors.Join(to.WriteFile("/etc/hostname", []byte(text), Owner{Mode: 0o644}), to.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	read := func() string {
		t.Helper()
		to, err := r.Files(ctx, poolInstance)
		if err != nil {
			t.Fatal(err)
		}
		b, err := to.ReadFile("etc/hostname", 100)
		if err := errors.Join(err, to.Close()); err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	take := func(id, what string) {
		t.Helper()
		poolStep(t, "snapshot "+what, func() error {
			s, err := r.TakeSnapshot(ctx, poolInstance, api.SnapshotStatus{ID: id, Name: what, Consistency: api.SnapshotStopped})
			if err == nil && (s.Name != what || s.State != api.SnapshotCreated) {
				t.Errorf("taken %+v", s)
			}
			return err
		})
	}
	back := func(id, to string, newer ...string) string {
		t.Helper()
		refused, err := r.RollBack(ctx, poolInstance, api.RollbackSpec{ID: id, Snapshot: to, Name: to, Newer: newer})
		if err != nil {
			t.Fatal(err)
		}
		return refused
	}
	poolStep(t, "clone", func() error { return r.CloneImage(ctx, poolTar, poolInstance, 64) })
	write("one")
	take("0000000a", "a")
	write("two")
	take("0000000b", "b")
	take("0000000b", "b") // again: it is there
	write("three")
	for what, err := range map[string]error{"held": r.DropSnapshot(ctx, poolInstance, "0000000f")} {
		if err != nil {
			t.Errorf("a drop of what is not there, %s: %v", what, err)
		}
	}
	if ids, f := snapshotIDs(t, r, poolInstance); !slices.Equal(ids, []string{"0000000a", "0000000b"}) || f.Snapshots[1].Name != "b" || f.Snapshots[1].Consistency != api.SnapshotStopped || f.Snapshots[0].Created.IsZero() {
		t.Errorf("found %+v", f.Snapshots)
	}
	if why := back("r0", "0000000a"); !strings.Contains(why, "nereid-0000000b is newer") {
		t.Errorf("beside a newer one: %q", why)
	}
	run("zfs", "hold", "mine", name+"@nereid-0000000b")
	if why := back("r0", "0000000a", "0000000b"); !strings.Contains(why, "cannot go") {
		t.Errorf("with a newer one that is held: %q", why)
	}
	if err := r.DropSnapshot(ctx, poolInstance, "0000000b"); !errors.Is(err, syscall.EBUSY) || !strings.Contains(err.Error(), "is held") {
		t.Errorf("a drop of what is held: %v", err)
	}
	run("zfs", "release", "mine", name+"@nereid-0000000b")
	run("zfs", "clone", name+"@nereid-0000000b", pool+"/mine-of-"+poolBad)
	if why := back("r0", "0000000a", "0000000b"); !strings.Contains(why, "cannot go") {
		t.Errorf("with a newer one that has a clone: %q", why)
	}
	if err := r.DropSnapshot(ctx, poolInstance, "0000000b"); !errors.Is(err, syscall.EBUSY) || !strings.Contains(err.Error(), "mine-of-") {
		t.Errorf("a drop of what has a clone: %v", err)
	}
	run("zfs", "destroy", pool+"/mine-of-"+poolBad)
	if got := read(); got != "three" {
		t.Errorf("after what was refused: %q", got)
	}
	to, err := r.Files(ctx, poolInstance)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.RollBack(ctx, poolInstance, api.RollbackSpec{ID: "r0", Snapshot: "0000000a", Newer: []string{"0000000b"}}); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("while it is mounted: %v", err)
	}
	if why, err := r.CheckRollback(ctx, poolInstance, api.RollbackSpec{ID: "r0", Snapshot: "0000000a", Newer: []string{"0000000b"}}); why != "" || err != nil {
		t.Errorf("may it, once it is not mounted: %q %v", why, err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	if ids, f := snapshotIDs(t, r, poolInstance); len(ids) != 2 || len(f.Rolled) != 0 {
		t.Errorf("after what was refused: %v, rolled %v", ids, f.Rolled)
	}
	poolStep(t, "rollback", func() error { back("r1", "0000000a", "0000000b"); return nil })
	if got := read(); got != "one" {
		t.Errorf("after the rollback: %q", got)
	}
	if ids, f := snapshotIDs(t, r, poolInstance); !slices.Equal(ids, []string{"0000000a"}) || !slices.Equal(f.Rolled, []string{"r1"}) || f.Image != poolTar || f.QuotaMiB != 64 {
		t.Errorf("after the rollback: %+v", f)
	}
	if why := back("r2", "0000000b"); !strings.Contains(why, "there is no snapshot") {
		t.Errorf("to one that is gone: %q", why)
	}
	poolStep(t, "drop snapshot", func() error { return r.DropSnapshot(ctx, poolInstance, "0000000a") })
	take("0000000c", "c")
	poolStep(t, "drop instance", func() error { return r.DropInstance(ctx, poolInstance) })
}

// machineSnapshots: the disks of a machine go back together, those that are younger stay.
func machineSnapshots(t *testing.T, r *Roots, name string, disks []api.VMDisk) {
	t.Helper()
	ctx := t.Context()
	write := func(disk, text string) {
		t.Helper()
		f, err := ZFS{}.OpenVolume(ctx, name+"/"+disk)
		if err == nil {
			_, err = f.WriteAt([]byte(text), 4096)
			err = errors.Join(err, f.Sync(), f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	is := func(disk, text string) {
		t.Helper()
		f, err := ZFS{}.OpenVolume(ctx, name+"/"+disk)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		got := make([]byte, len(text))
		if _, err := f.ReadAt(got, 4096); err != nil || !bytes.Equal(got, []byte(text)) {
			t.Errorf("%s has %q, want %q, %v", disk, got, text, err)
		}
	}
	write("disk0", "one")
	write("disk1", "one")
	poolStep(t, "snapshot of the machine", func() error {
		_, err := r.TakeSnapshot(ctx, poolMachine, api.SnapshotStatus{ID: "0000000d", Name: "d"})
		return err
	})
	write("disk0", "two")
	write("disk1", "two")
	young := append(slices.Clone(disks), api.VMDisk{Name: "disk7", SizeMiB: 4})
	young[1].SizeMiB = 80
	if err := r.CloneDisks(ctx, poolMachine, young, 100); err != nil {
		t.Fatal(err)
	}
	write("disk7", "new")
	f, err := ZFS{}.OpenVolume(ctx, name+"/disk1")
	if err != nil {
		t.Fatal(err)
	}
	spec := api.RollbackSpec{ID: "r1", Snapshot: "0000000d"}
	var busy *BusyError
	if _, err := r.RollBack(ctx, poolMachine, spec); !errors.As(err, &busy) || busy.Holders[0].PID != os.Getpid() {
		t.Errorf("a rollback of what is open: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	is("disk0", "two")
	poolStep(t, "rollback of the machine", func() error {
		why, err := r.RollBack(ctx, poolMachine, spec)
		if why != "" {
			t.Errorf("refused: %s", why)
		}
		return err
	})
	for disk, text := range map[string]string{"disk0": "one", "disk1": "one", "disk7": "new"} {
		is(disk, text)
	}
	if got := zfsGet(t, name+"/disk1", "volsize"); got != "67108864" {
		t.Errorf("disk1 has %s bytes", got)
	}
	poolStep(t, "it grows again", func() error { return r.CloneDisks(context.WithoutCancel(ctx), poolMachine, young, 100) })
	is("disk1", "one")
	poolStep(t, "drop snapshot of the machine", func() error { return r.DropSnapshot(ctx, poolMachine, "0000000d") })
	if ids, _ := snapshotIDs(t, r, poolMachine); len(ids) != 0 {
		t.Errorf("left are %v", ids)
	}
}
