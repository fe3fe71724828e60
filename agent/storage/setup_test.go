package storage

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nereid/agent/agenttest"
	"nereid/api"

	"github.com/google/go-cmp/cmp"
)

const (
	testUUID  = "4c4c4544-0031-3010-8050-b7c04f4e3132"
	testSetup = "setup-1"
	gib       = int64(1) << 30
)

// lab is a World, the Storage of the server it stands for, and its disks.
type lab struct {
	*agenttest.World
	*Storage
	disks []api.Disk
}

func newLab(t *testing.T, names ...string) *lab {
	t.Helper()
	// Every write is synced; in memory that is quick.
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		t.Setenv("TMPDIR", "/dev/shm")
	}
	sizes := map[string]int64{}
	var disks []api.Disk
	for _, n := range names {
		sizes[n] = 2 * gib
		disks = append(disks, api.Disk{Name: n, SizeBytes: 2 * gib, BlockBytes: 512})
	}
	w, err := agenttest.New(t.TempDir(), sizes)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{World: w, disks: disks}
	l.reboot()
	return l
}

// reboot forgets what the agent had in memory and what the kernel knew.
func (l *lab) reboot() {
	l.PowerCut()
	l.Storage = &Storage{UUID: testUUID, Runner: l.World, Datasets: l.World, Root: l.World.Root, BeforeComplete: func(_ context.Context, dir string) error {
		return WriteFile(filepath.Join(dir, "agent.key"), []byte("secret"))
	}}
}

// Destroy is that of the Storage, not of the World.
func (l *lab) Destroy(ctx context.Context, guid string) error { return l.Storage.Destroy(ctx, guid) }

// observed is the list of disks as an inventory taken now would have it.
func (l *lab) observed(t *testing.T) []api.Disk {
	t.Helper()
	used := l.InUse(t.Context())
	disks := append([]api.Disk(nil), l.disks...)
	for i := range disks {
		if disks[i].InUseBy = used[disks[i].Name]; disks[i].InUseBy != "" {
			continue
		}
		text, err := l.Content(t.Context(), disks[i].Name)
		if err != nil {
			t.Fatal(err)
		}
		disks[i].Content = text
	}
	return disks
}

func (l *lab) setup(t *testing.T, spec api.SetupSpec) error {
	t.Helper()
	return l.Setup(t.Context(), spec, l.observed(t), nil)
}

func (l *lab) write(t *testing.T, disk string, at int64, data string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(l.World.Root, "dev", disk), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(data), at); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// sum is a digest of what matters of a disk: its edges and some of its middle.
func (l *lab) sum(t *testing.T, disk string) string {
	t.Helper()
	f, err := os.Open(filepath.Join(l.World.Root, "dev", disk))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	for _, r := range []*io.SectionReader{io.NewSectionReader(f, 0, 4<<20), io.NewSectionReader(f, 2*gib-2<<20, 2<<20)} {
		if _, err := io.Copy(h, r); err != nil {
			t.Fatal(err)
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

func (l *lab) mark(t *testing.T, disk string) *mark {
	t.Helper()
	d, err := l.open(disk, reading)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	f, err := examine(d, d.size)
	if err != nil {
		t.Fatal(err)
	}
	return f.mark
}

const wantMirror = `pool zones ONLINE imported: mirror /dev/vdb /dev/vdc
  options ashift=12 autotrim=off cachefile=none compatibility=openzfs-2.2
  zones mounted acltype=posixacl atime=off compression=lz4 mountpoint=/zones nereid:plan=PLAN nereid:server=4c4c4544-0031-3010-8050-b7c04f4e3132 nereid:setup=setup-1 nereid:setup-complete=setup-1 nereid:system=on xattr=sa
  zones/config mounted copies=2 devices=off exec=off setuid=off
  zones/cores mounted devices=off exec=off quota=10G setuid=off
`

// world prints the World with the digest of the plan left out.
func (l *lab) world(t *testing.T) string {
	t.Helper()
	s := l.World.String()
	if _, rest, ok := strings.Cut(s, propPlan+"="); ok {
		digest, _, _ := strings.Cut(rest, " ")
		s = strings.ReplaceAll(s, digest, "PLAN")
	}
	return s
}

func (l *lab) check(t *testing.T, want string) {
	t.Helper()
	if diff := cmp.Diff(want, l.world(t)); diff != "" {
		t.Fatalf("world (-want +got):\n%s", diff)
	}
}

func TestSetup(t *testing.T) {
	l := newLab(t, "vdb", "vdc")
	plan, err := Plan(api.SetupSpec{}, l.disks)
	if err != nil {
		t.Fatal(err)
	}
	spec := api.SetupSpec{ID: testSetup, PlanDigest: plan.Digest}
	var phases []string
	report := func(r api.SetupReport) {
		if len(phases) == 0 || phases[len(phases)-1] != r.Phase {
			phases = append(phases, r.Phase)
		}
		if r.ID != testSetup || r.Error != "" || r.Complete != (r.Phase == "complete") {
			t.Errorf("report %+v", r)
		}
	}
	if err := l.Setup(t.Context(), spec, l.disks, report); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(phases, ", "), "planning, creating pool, creating datasets, storing key, complete"; got != want {
		t.Errorf("phases %s, want %s", got, want)
	}
	l.check(t, wantMirror)
	for _, d := range l.disks {
		if m := l.mark(t, d.Name); m != nil {
			t.Errorf("disk %s still carries %+v", d.Name, m)
		}
	}
	info, err := os.Stat(filepath.Join(l.World.Root, "zones/config"))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("config folder: %v %v", info.Mode(), err)
	}

	// Again, in the same process and after a reboot: nothing changes.
	l.World.Hook = func(command string, _ bool) error {
		if strings.HasPrefix(command, "zpool import -N") || strings.HasPrefix(command, "zfs mount") {
			return nil
		}
		return fmt.Errorf("unexpected change: %s", command)
	}
	if err := l.setup(t, spec); err != nil {
		t.Fatal(err)
	}
	l.reboot()
	im, err := l.Import(t.Context())
	if err != nil || !im.Complete || im.System == nil || im.SetupID != testSetup || len(im.Problems) > 0 || im.ConfigDir == "" {
		t.Fatalf("import: %+v %v", im, err)
	}
	if im2, err := l.Import(t.Context()); err != nil || !cmp.Equal(im, im2) {
		t.Fatalf("second import: %+v %v", im2, err)
	}
	if err := l.setup(t, spec); err != nil {
		t.Fatal(err)
	}
	l.check(t, wantMirror)
	if key, err := l.ReadConfig(t.Context(), "agent.key"); err != nil || string(key) != "secret" {
		t.Errorf("key %q %v", key, err)
	}
	if err := l.setup(t, api.SetupSpec{ID: "setup-2"}); !errors.Is(err, ErrSetUp) {
		t.Errorf("another setup: %v", err)
	}
}

var errCut = errors.New("cut")

// cut makes the n-th thing that changes something fail: a step before it
// happens, a command before or after it had its effect.
func (l *lab) cut(n int) (happened func() bool) {
	count := 0
	here := func() error {
		count++
		if count == n {
			return errCut
		}
		return nil
	}
	l.World.Hook = func(string, bool) error { return here() }
	l.Storage.hook = func(string) error { return here() }
	return func() bool { return count >= n }
}

func (l *lab) uncut() { l.World.Hook, l.Storage.hook = nil, nil }

// TestSetupCut stops a setup at every point, with and without a reboot, and
// continues it. The pool becomes what it would have been, the disk with foreign
// data that was left out stays as it was, and the one that was given for wiping is used.
func TestSetupCut(t *testing.T) {
	for _, reboot := range []bool{false, true} {
		n := 1
		for ; ; n++ {
			l := newLab(t, "vda", "vdb", "vdc")
			l.write(t, "vda", 1080, "\x53\xef")
			l.write(t, "vda", 3<<20, "somebody's files")
			l.write(t, "vdc", 0, "XFSB")
			foreign := l.sum(t, "vda")
			spec := api.SetupSpec{ID: testSetup, Exclude: []string{"vda"}, Wipe: []string{"vdc"}}
			happened := l.cut(n)
			err := l.setup(t, spec)
			if !happened() {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
			if !errors.Is(err, errCut) {
				t.Fatalf("cut %d (reboot %v): %v", n, reboot, err)
			}
			l.uncut()
			if reboot {
				l.reboot()
				if im, err := l.Import(t.Context()); err != nil || len(im.Problems) > 0 {
					t.Fatalf("cut %d: import: %+v %v", n, im, err)
				}
			}
			for range 2 {
				if err := l.setup(t, spec); err != nil {
					t.Fatalf("cut %d (reboot %v): again: %v\n%s", n, reboot, err, l.World)
				}
				l.check(t, wantMirror)
			}
			for _, d := range l.disks {
				if m := l.mark(t, d.Name); m != nil {
					t.Fatalf("cut %d: disk %s still carries %+v", n, d.Name, m)
				}
			}
			if l.sum(t, "vda") != foreign {
				t.Fatalf("cut %d: the foreign disk changed", n)
			}
		}
		if n < 15 {
			t.Errorf("only %d points were tried", n)
		}
	}
}

// TestSetupOtherID: an unfinished setup is taken over by the next one asked for.
func TestSetupOtherID(t *testing.T) {
	for n := 1; ; n++ {
		l := newLab(t, "vdb", "vdc")
		happened := l.cut(n)
		err := l.setup(t, api.SetupSpec{ID: "setup-0"})
		if !happened() {
			break
		}
		l.uncut()
		l.reboot()
		im, err := l.Import(t.Context())
		if err != nil || len(im.Problems) > 0 {
			t.Fatalf("cut %d: import: %+v %v", n, im, err)
		}
		err = l.setup(t, api.SetupSpec{ID: testSetup})
		if im.Complete {
			if !errors.Is(err, ErrSetUp) {
				t.Fatalf("cut %d: %v", n, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("cut %d: %v\n%s", n, err, l.World)
		}
		l.check(t, wantMirror)
	}
}

// TestResetCut stops a factory reset at every point; the next boot finishes it
// and the disks can be set up again without leave to wipe them.
func TestResetCut(t *testing.T) {
	n := 1
	for ; ; n++ {
		l := newLab(t, "vda", "vdb", "vdc")
		l.write(t, "vda", 0, "LUKS\xba\xbe")
		foreign := l.sum(t, "vda")
		spec := api.SetupSpec{ID: testSetup, Exclude: []string{"vda"}}
		if err := l.setup(t, spec); err != nil {
			t.Fatal(err)
		}
		pools, err := l.Pools(t.Context())
		if err != nil || len(pools) != 1 {
			t.Fatalf("%v %v", pools, err)
		}
		if err := l.Destroy(t.Context(), "1"); err != nil {
			t.Fatalf("another GUID: %v", err)
		}
		l.check(t, wantMirror)
		happened := l.cut(n)
		err = l.Destroy(t.Context(), pools[0].GUID)
		cut := happened()
		l.uncut()
		if cut && !errors.Is(err, errCut) || !cut && err != nil {
			t.Fatalf("cut %d: %v", n, err)
		}
		l.reboot()
		im, err := l.Import(t.Context())
		if err != nil || len(im.Problems) > 0 {
			t.Fatalf("cut %d: import: %+v %v", n, im, err)
		}
		if n == 1 {
			// Nothing had happened yet: the pool is as it was.
			l.check(t, wantMirror)
			if err := l.Destroy(t.Context(), pools[0].GUID); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Destroy(t.Context(), pools[0].GUID); err != nil {
			t.Fatalf("cut %d: again: %v", n, err)
		}
		l.check(t, "")
		if l.sum(t, "vda") != foreign {
			t.Fatalf("cut %d: the foreign disk changed", n)
		}
		for _, d := range l.observed(t) {
			if (d.Content != "") != (d.Name == "vda") {
				t.Fatalf("cut %d: disk %s holds %q", n, d.Name, d.Content)
			}
		}
		if err := l.setup(t, spec); err != nil {
			t.Fatalf("cut %d: setup after reset: %v", n, err)
		}
		l.check(t, wantMirror)
		if !cut {
			break
		}
	}
	if n < 8 {
		t.Errorf("only %d points were tried", n)
	}
}

// TestSetupKinds: log, cache and spares reach zpool create, disks by their ids.
func TestSetupKinds(t *testing.T) {
	l := newLab(t, "sda", "sdb", "sdc", "sdd", "sde", "nvme0n1", "nvme1n1", "nvme2n1")
	dir := filepath.Join(l.World.Root, "dev/disk/by-id")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range l.disks {
		d := &l.disks[i]
		d.ID = "wwn-" + d.Name
		d.SolidState = strings.HasPrefix(d.Name, "nvme")
		if err := os.Symlink("../../"+d.Name, filepath.Join(dir, d.ID)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.setup(t, api.SetupSpec{ID: testSetup, Pool: "data", Layout: "mirror"}); err != nil {
		t.Fatal(err)
	}
	want := strings.ReplaceAll("pool data ONLINE imported: mirror @sda @sdb mirror @sdc @sdd log mirror @nvme0n1 @nvme1n1 cache @nvme2n1 spare @sde", "@", "/dev/disk/by-id/wwn-")
	if got, _, _ := strings.Cut(l.World.String(), "\n"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	used := l.InUse(t.Context())
	for _, d := range l.disks {
		if used[d.Name] != "pool data" {
			t.Errorf("disk %s in use by %q", d.Name, used[d.Name])
		}
	}
}

// TestSetupUneven: zpool wants force for a mirror of disks of unlike size, and only then.
func TestSetupUneven(t *testing.T) {
	l := newLab(t, "vdb", "vdc")
	if err := os.Truncate(filepath.Join(l.World.Root, "dev/vdc"), 3*gib); err != nil {
		t.Fatal(err)
	}
	l.disks[1].SizeBytes = 3 * gib
	if err := l.setup(t, api.SetupSpec{ID: testSetup}); err != nil {
		t.Fatal(err)
	}
	l.check(t, wantMirror)
	for _, c := range l.Calls() {
		if strings.HasPrefix(c, "zpool create") != strings.HasPrefix(c, "zpool create -f ") {
			t.Errorf("ran %s", c)
		}
	}
}

// busyOnce fails the first zpool create as zpool does while udev has a disk open.
type busyOnce struct {
	Runner
	left int
}

func (b *busyOnce) Run(ctx context.Context, name string, args ...string) ([]byte, error) {
	if name == "zpool" && args[0] == "create" && b.left > 0 {
		b.left--
		return nil, errors.New("zpool create: cannot create 'zones': one or more devices is currently unavailable (exit status 1)")
	}
	return b.Runner.Run(ctx, name, args...)
}

// TestSetupBusyDisk: a disk that udev holds for a moment is tried again; one that
// stays busy is said.
func TestSetupBusyDisk(t *testing.T) {
	for _, c := range []struct {
		busy int
		ok   bool
	}{{1, true}, {createTries - 1, true}, {createTries, false}} {
		l := newLab(t, "vda", "vdb")
		l.Storage.Runner = &busyOnce{l.World, c.busy}
		err := l.setup(t, api.SetupSpec{ID: testSetup})
		if (err == nil) != c.ok {
			t.Errorf("busy %d times: %v", c.busy, err)
		}
		if err != nil {
			if err := l.setup(t, api.SetupSpec{ID: testSetup}); err != nil {
				t.Errorf("busy %d times, asked again: %v", c.busy, err)
			}
		}
	}
}
