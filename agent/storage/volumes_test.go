package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
)

// testDisk is the bytes of a disk that has zeros here and there, and no whole number of
// blocks.
func testDisk() []byte {
	b := make([]byte, 3<<20+100)
	seed := rand.NewChaCha8([32]byte{3})
	for _, at := range []int{0, volumeBlock, 5*volumeBlock + 7, 1<<20 - 3, 2 << 20, len(b) - 50} {
		seed.Read(b[at : at+50])
	}
	return b
}

// diskSpec is the spec of an image that is this disk.
func diskSpec(b []byte) api.ImageSpec {
	spec := specOf(b, api.FormatRaw)
	spec.Type, spec.SizeMiB, spec.File.UncompressedSize = api.ImageZvol, (len(b)+1<<20-1)>>20, int64(len(b))
	return spec
}

// onDisk is what is on a disk of the instance, or of the image.
func (l *lab) onDisk(t *testing.T, name string) []byte {
	t.Helper()
	ctx := t.Context()
	// A clone that may be written to has its device.
	if err := errors.Join(l.World.Snapshot(ctx, name, "look", false), l.World.Clone(ctx, name+"@look", "zones/look", map[string]string{"volmode": "dev"})); err != nil {
		t.Fatal(err)
	}
	f, err := l.World.OpenVolume(ctx, "zones/look")
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close(), l.World.Destroy(ctx, "zones/look"), l.World.Destroy(ctx, name+"@look")); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestImportVolume: the bytes of a disk, and a stream of a volume, become an image that
// disks are clones of.
func TestImportVolume(t *testing.T) {
	l, r := rootsLab(t)
	ctx, disk := t.Context(), testDisk()
	want := append(bytes.Clone(disk), make([]byte, (volumeBlock-len(disk)%volumeBlock))...)
	spec := diskSpec(disk)
	for range 2 {
		if err := r.ImportImage(ctx, spec, iotest.HalfReader(bytes.NewReader(disk)), nil); err != nil {
			t.Fatal(err)
		}
	}
	text := fmt.Sprintf("  zones/IMAGE volume of %d nereid:image=IMAGE readonly=on refreservation=none volmode=none\n    @final\n", len(want))
	if d := cmp.Diff(text, l.sets()); d != "" {
		t.Error(d)
	}
	if err := l.World.Clone(ctx, "zones/"+testImage+"@final", "zones/clone", nil); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(l.onDisk(t, "zones/clone"), want) {
		t.Error("the image has other bytes than the disk, and zeros to the end of the block")
	}
	var stream bytes.Buffer
	err := errors.Join(l.World.Destroy(ctx, "zones/clone"), l.World.Send(ctx, "zones/"+testImage+"@final", "", &stream), r.DropImage(ctx, testImage))
	if err != nil {
		t.Fatal(err)
	}
	zfs := specOf(stream.Bytes(), api.FormatZFS)
	if err := r.ImportImage(ctx, zfs, bytes.NewReader(stream.Bytes()), nil); err == nil || !strings.Contains(err.Error(), "of a volume, not of a file system as an image of type lx-dataset") {
		t.Errorf("a volume as a zone's image: %v", err)
	}
	zfs.Type, zfs.SizeMiB = api.ImageZvol, 1
	if err := r.ImportImage(ctx, zfs, bytes.NewReader(stream.Bytes()), nil); err == nil || !strings.Contains(err.Error(), "has 4 MiB, not 1 as the manifest says") {
		t.Errorf("a volume of another size: %v", err)
	}
	zfs.SizeMiB = 4
	if err := r.ImportImage(ctx, zfs, bytes.NewReader(stream.Bytes()), nil); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(text, l.sets()); d != "" {
		t.Error(d)
	}
	files, _ := l.stream(t)
	zone := specOf(files, api.FormatZFS)
	zone.UUID, zone.Type = testInstance, api.ImageZvol
	if err := r.ImportImage(ctx, zone, bytes.NewReader(files), nil); err == nil || !strings.Contains(err.Error(), "not of a volume as an image of type zvol") {
		t.Errorf("a file system as a disk: %v", err)
	}
}

// TestImportVolumeRefuses: bytes that are not those of the manifest leave nothing behind.
func TestImportVolumeRefuses(t *testing.T) {
	l, r := rootsLab(t)
	disk := testDisk()
	spec := diskSpec(disk)
	short, long, none, vast, tar := spec, spec, spec, spec, spec
	short.File.UncompressedSize -= 600
	long.File.UncompressedSize += 600
	none.File.UncompressedSize = 0
	vast.File.UncompressedSize = 1 << 62
	tar.Type = api.ImageLXDataset
	changed := bytes.Clone(disk)
	changed[volumeBlock] ^= 1
	for what, c := range map[string]struct {
		spec  api.ImageSpec
		bytes []byte
		want  string
	}{
		"changed":         {spec, changed, "changed on the way"},
		"cut":             {spec, disk[:len(disk)-1], "cut"},
		"longer":          {spec, append(bytes.Clone(disk), 1), "more bytes than its manifest"},
		"larger disk":     {short, disk, "more than"},
		"smaller disk":    {long, disk, "the disk ends after"},
		"no size":         {none, disk, "a disk of 0 bytes"},
		"4 EiB":           {vast, disk, "want 1 to"},
		"as a zone's":     {tar, disk, `format "raw" makes no image of type "lx-dataset"`},
		"unknown formats": {func() api.ImageSpec { s := spec; s.File.Format = "vmdk"; return s }(), disk, `format "vmdk"`},
	} {
		err := r.ImportImage(t.Context(), c.spec, bytes.NewReader(c.bytes), nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
		if s := l.sets(); s != "" {
			t.Errorf("%s left %s", what, s)
		}
	}
	l.Full = true
	if err := r.ImportImage(t.Context(), spec, bytes.NewReader(disk), nil); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "pool zones is full") {
		t.Errorf("a full pool: %v", err)
	}
	if s := l.sets(); s != "" {
		t.Errorf("a full pool left %s", s)
	}
}

const wantDisks = `  zones/IMAGE volume of 3162112 nereid:image=IMAGE readonly=on refreservation=none volmode=none
    @final
  zones/INSTANCE nereid:instance=INSTANCE quota=175112192 volmode=dev
  zones/INSTANCE/disk0 volume of 8388608 
    clone of zones/IMAGE@final
  zones/INSTANCE/disk1 volume of SIZE refreservation=none
`

// machineLab is a pool with an image of a disk.
func machineLab(t *testing.T) (*lab, *Roots) {
	t.Helper()
	l, r := rootsLab(t)
	disk := testDisk()
	if err := r.ImportImage(t.Context(), diskSpec(disk), bytes.NewReader(disk), nil); err != nil {
		t.Fatal(err)
	}
	return l, r
}

var testDisks = []api.VMDisk{{Name: "disk0", SizeMiB: 8, Image: testImage}, {Name: "disk1", SizeMiB: 20}}

// TestCloneDisks: disks are made once, grow and do not shrink, and stay when they are not
// named; what is written on them stays too.
func TestCloneDisks(t *testing.T) {
	l, r := machineLab(t)
	ctx := t.Context()
	if got := (&Roots{}).Disk(testInstance, "disk0"); got != "" {
		t.Errorf("a disk of no pool: %s", got)
	}
	disks := func(size string, list ...api.VMDisk) {
		t.Helper()
		if err := r.CloneDisks(ctx, testInstance, list, 100); err != nil {
			t.Error(err)
		}
		if d := cmp.Diff(strings.Replace(wantDisks, "SIZE", size, 1), l.sets()); d != "" {
			t.Error(d)
		}
	}
	disks("20971520", testDisks...)
	if b := l.onDisk(t, "zones/"+testInstance+"/disk0"); len(b) != 8<<20 || !bytes.HasPrefix(b, testDisk()) || !zeros(b[len(testDisk()):]) {
		t.Error("disk0 is not its image, and zeros behind it")
	}
	for range 2 {
		disks("33554432", testDisks[0], api.VMDisk{Name: "disk1", SizeMiB: 32})
	}
	disks("33554432", testDisks...)
	disks("33554432", testDisks[0])
	if got, want := r.Disk(testInstance, "disk1"), "/dev/zvol/zones/"+testInstance+"/disk1"; got != want {
		t.Errorf("device %s, want %s", got, want)
	}
	f, err := r.Look(ctx)
	want := FoundInstance{UUID: testInstance, Image: testImage, QuotaMiB: 167, Disks: []FoundDisk{{"disk0", 8}, {"disk1", 32}}}
	if err != nil || len(f.Instances) != 1 || len(f.Images) != 1 || len(f.Images[0].Clones) != 1 || len(f.Foreign) > 0 {
		t.Fatalf("found %+v %v", f, err)
	}
	f.Instances[0].Used = 0
	if d := cmp.Diff(want, f.Instances[0]); d != "" {
		t.Error(d)
	}
	if err := r.SetQuota(ctx, testInstance, 200); err != nil || !strings.Contains(l.sets(), fmt.Sprintf("quota=%d ", machineQuota(200)<<20)) {
		t.Errorf("%v\n%s", err, l.sets())
	}
	if err := r.DropImage(ctx, testImage); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("an image with a disk is dropped: %v", err)
	}
	if gone, err := r.Collect(ctx, Collection{After: 1, Pressure: 0.001}, f, func(string) bool { return false }, 1, 1); err != nil || len(gone) > 0 {
		t.Errorf("collected %v, %v", gone, err)
	}
	// One snapshot of all of it.
	if err := l.World.Snapshot(ctx, "zones/"+testInstance, "s", true); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.DropDisk(ctx, testInstance, "disk1"); err != nil {
			t.Error(err)
		}
	}
	if s := l.sets(); strings.Contains(s, "disk1") || !strings.Contains(s, "disk0") {
		t.Errorf("left: %s", s)
	}
	for range 2 {
		if err := r.DropInstance(ctx, testInstance); err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(r.DropDisk(ctx, testInstance, "disk0"), r.DropImage(ctx, testImage)); err != nil {
		t.Error(err)
	}
	if s := l.sets(); s != "" {
		t.Errorf("left: %s", s)
	}
}

// TestCloneDisksRefuses: what the agent did not make is no machine, and no disk.
func TestCloneDisksRefuses(t *testing.T) {
	l, r := machineLab(t)
	ctx, w := t.Context(), l.World
	name := "zones/" + testInstance
	for what, c := range map[string]struct {
		make func() error
		want error
	}{
		"a file system with data": {func() error {
			return errors.Join(w.Create(ctx, name, nil), w.Snapshot(ctx, name, "s", false))
		}, ErrForeign},
		"another's": {func() error { return w.Create(ctx, name, map[string]string{propInstance: testUUID}) }, ErrForeign},
		"a volume":  {func() error { return w.CreateVolume(ctx, name, 1<<20, nil) }, ErrForeign},
		"a zone": {func() error {
			return w.Clone(ctx, "zones/"+testImage+"@final", name, map[string]string{propInstance: testInstance})
		}, ErrForeign},
		"a wrong disk": {func() error {
			return errors.Join(r.CloneDisks(ctx, testInstance, nil, 10), w.CreateVolume(ctx, name+"/disk0", 1<<20, nil))
		}, ErrForeign},
		"a file system as disk": {func() error {
			return errors.Join(r.CloneDisks(ctx, testInstance, nil, 10), w.Create(ctx, name+"/disk1", map[string]string{"mountpoint": "legacy"}))
		}, ErrForeign},
	} {
		if err := c.make(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		before := l.sets()
		if err := r.CloneDisks(ctx, testInstance, testDisks, 100); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
		for line := range strings.Lines(before) {
			if !strings.Contains(l.sets(), line) {
				t.Errorf("%s: %s is gone: %s", what, line, l.sets())
			}
		}
		all, err := w.List(ctx, name, "type")
		if err := errors.Join(err, r.destroy(ctx, name, all)); err != nil {
			t.Fatal(err)
		}
	}
	for what, c := range map[string]struct {
		disks []api.VMDisk
		quota int
		want  string
	}{
		"no image":      {[]api.VMDisk{{Name: "disk0", SizeMiB: 1, Image: testUUID}}, 10, "does not exist"},
		"a path":        {[]api.VMDisk{{Name: "../x", SizeMiB: 1}}, 10, "want disk and a number"},
		"no size":       {[]api.VMDisk{{Name: "disk0"}}, 10, "1 MiB or more"},
		"no UUID":       {[]api.VMDisk{{Name: "disk0", SizeMiB: 1, Image: "final"}}, 10, "no UUID"},
		"a huge quota":  {nil, 1 << 60, "quota of"},
		"a vast volume": {[]api.VMDisk{{Name: "disk0", SizeMiB: 1 << 50}}, 10, "1 MiB or more"},
	} {
		if err := r.CloneDisks(ctx, testInstance, c.disks, c.quota); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", what, err, c.want)
		}
	}
	if err := r.CloneDisks(ctx, testInstance, []api.VMDisk{{Name: "disk0", SizeMiB: 1, Image: testUUID}}, 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no image: %v", err)
	}
	for _, bad := range []string{"", "disk", "disk1/x", "disk1@s", "disk99999"} {
		if err := r.DropDisk(ctx, testInstance, bad); err == nil || r.Disk(testInstance, bad) != "" {
			t.Errorf("disk %q: %v, %s", bad, err, r.Disk(testInstance, bad))
		}
	}
}

// TestHalfMadeMachine: power went between the transactions that made the dataset and that
// set its properties.
func TestHalfMadeMachine(t *testing.T) {
	l, r := machineLab(t)
	if err := l.World.Create(t.Context(), "zones/"+testInstance, map[string]string{"quota": "1"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.CloneDisks(t.Context(), testInstance, testDisks, 100); err != nil {
			t.Fatal(err)
		}
		got := strings.ReplaceAll(l.sets(), " mounted", "")
		if d := cmp.Diff(strings.Replace(wantDisks, "SIZE", "20971520", 1), got); d != "" {
			t.Error(d)
		}
	}
}

// TestDropOpenDisk: a disk that a process has open stays, with all that belongs to it, and
// the process is named.
func TestDropOpenDisk(t *testing.T) {
	l, r := machineLab(t)
	ctx := t.Context()
	if err := r.CloneDisks(ctx, testInstance, testDisks, 100); err != nil {
		t.Fatal(err)
	}
	r.Dev, r.Proc = t.TempDir(), t.TempDir()
	link := r.Disk(testInstance, "disk0") // a device that is on every machine stands for it
	fds := filepath.Join(r.Proc, "77", "fd")
	err := errors.Join(os.MkdirAll(filepath.Dir(link), 0o755), os.Symlink("/dev/full", link), os.MkdirAll(fds, 0o755),
		os.Symlink("/dev/full", filepath.Join(fds, "3")), os.Symlink("/dev/null", filepath.Join(fds, "4")), os.Symlink("/gone", filepath.Join(fds, "5")),
		os.WriteFile(filepath.Join(r.Proc, "77", "comm"), []byte("qemu\n"), 0o644),
		os.MkdirAll(filepath.Join(r.Proc, "78", "fd"), 0o755), os.Symlink("/dev/full", filepath.Join(r.Proc, "78", "fd", "3")),
		os.WriteFile(filepath.Join(r.Proc, "78", "comm"), []byte("(udev-worker)\n"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	before := l.sets()
	var busy *BusyError
	want := "process 77 (qemu) has zones/" + testInstance + "/disk0 open"
	if err := r.DropInstance(ctx, testInstance); !errors.As(err, &busy) || !strings.HasSuffix(err.Error(), want) || l.sets() != before {
		t.Errorf("%v, want %s\n%s", err, want, l.sets())
	}
	if err := os.Remove(filepath.Join(fds, "3")); err != nil {
		t.Fatal(err)
	}
	if err := r.DropInstance(ctx, testInstance); err != nil {
		t.Error(err)
	}
}

// TestWriteSparse: only what is not zeros is written, whatever the reader's pieces.
func TestWriteSparse(t *testing.T) {
	disk := testDisk()
	var w pieces
	if err := writeSparse(t.Context(), &w, iotest.OneByteReader(bytes.NewReader(disk[:200<<10])), 200<<10); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(w), "[0+32768 81920+16384]"; got != want {
		t.Errorf("wrote %s, want %s", got, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := writeSparse(ctx, &w, bytes.NewReader(disk), int64(len(disk))); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// pieces notes what is written where.
type pieces []string

func (p *pieces) WriteAt(b []byte, at int64) (int, error) {
	*p = append(*p, fmt.Sprintf("%d+%d", at, len(b)))
	return len(b), nil
}
