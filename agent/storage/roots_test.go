package storage

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
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
	"time"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
)

const (
	testImage    = "11111111-2222-4333-8444-555555555555"
	testInstance = "aaaaaaaa-2222-4333-8444-555555555555"
)

// testTar is a small root file system, owned by who runs the test.
func testTar(t testing.TB, more ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(h tar.Header, data string) {
		h.Uid, h.Gid, h.Size = os.Getuid(), os.Getgid(), int64(len(data))
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, data); err != nil {
			t.Fatal(err)
		}
	}
	put(tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}, "")
	put(tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}, "")
	put(tar.Header{Name: "etc/hostname"}, "image\n")
	for _, h := range more {
		put(h, "")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// specOf is the spec of an image with this file.
func specOf(b []byte, format string) api.ImageSpec {
	sum := sha256.Sum256(b)
	return api.ImageSpec{UUID: testImage, Name: "test 1", Type: api.ImageLXDataset, File: api.ImageFile{
		Format: format, Size: int64(len(b)), Digest: "sha256:" + hex.EncodeToString(sum[:]),
	}}
}

// rootsLab is a pool that was set up, and its Roots.
func rootsLab(t *testing.T) (*lab, *Roots) {
	t.Helper()
	l := newLab(t, "sda")
	if err := l.setup(t, api.SetupSpec{ID: testSetup}); err != nil {
		t.Fatal(err)
	}
	l.Calls()
	return l, l.roots()
}

func (l *lab) roots() *Roots { return &Roots{Pool: l.SystemPool, ZFS: l.World} }

// sets prints what the pool has of images and instances.
func (l *lab) sets() string {
	var b strings.Builder
	for line := range strings.Lines(l.World.String()) {
		if strings.Contains(line, "@") || strings.Contains(line, "zones/") && !strings.Contains(line, "zones/co") {
			b.WriteString(line)
		}
	}
	return strings.NewReplacer(testImage, "IMAGE", testInstance, "INSTANCE",
		"acltype=posixacl ", "", "canmount=noauto ", "", "dnodesize=auto ", "", "mountpoint=legacy ", "", " xattr=sa", "").Replace(b.String())
}

// stream makes a ZFS stream of an image with a file root/etc/hostname.
func (l *lab) stream(t *testing.T) (stream []byte, guid string) {
	t.Helper()
	ctx, w := t.Context(), l.World
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(w.Create(ctx, "zones/source", map[string]string{"mountpoint": "legacy"}))
	dir, err := w.Mount(ctx, "zones/source", false)
	must(err)
	must(os.MkdirAll(filepath.Join(dir.Name(), "root", "etc"), 0o755))
	must(os.WriteFile(filepath.Join(dir.Name(), "root", "etc", "hostname"), []byte("image\n"), 0o644))
	must(dir.Close())
	must(w.Snapshot(ctx, "zones/source", "sent", false))
	var b bytes.Buffer
	must(w.Send(ctx, "zones/source@sent", "", &b))
	all, err := w.List(ctx, "zones/source", "guid")
	must(err)
	guid = all["zones/source@sent"]["guid"]
	must(w.Destroy(ctx, "zones/source@sent"))
	must(w.Destroy(ctx, "zones/source"))
	return b.Bytes(), guid
}

const wantImported = `  zones/IMAGE nereid:image=IMAGE quota=QUOTA readonly=on
    @final
`

func importedText(quota string) string { return strings.ReplaceAll(wantImported, "QUOTA", quota) }

// TestImportImage: a tar and a ZFS stream become the same thing, once.
func TestImportImage(t *testing.T) {
	l, r := rootsLab(t)
	stream, guid := l.stream(t)
	zfs := specOf(stream, api.FormatZFS)
	zfs.File.DatasetGUID = guid
	b := testTar(t)
	for name, c := range map[string]struct {
		spec  api.ImageSpec
		bytes []byte
	}{"tar": {specOf(b, api.FormatTar), b}, "zfs": {zfs, stream}} {
		t.Run(name, func(t *testing.T) {
			var done int64
			if err := r.ImportImage(t.Context(), c.spec, iotest.HalfReader(bytes.NewReader(c.bytes)), func(n int64) { done = n }); err != nil {
				t.Fatal(err)
			}
			if done != int64(len(c.bytes)) {
				t.Errorf("progress ended at %d of %d", done, len(c.bytes))
			}
			if d := cmp.Diff(importedText(quotaFor(c.spec.File, limitsOf(c.spec.File))), l.sets()); d != "" {
				t.Error(d)
			}
			// Once more reads nothing.
			if err := r.ImportImage(t.Context(), c.spec, iotest.ErrReader(errors.New("read")), nil); err != nil {
				t.Errorf("once more: %v", err)
			}
			f, err := r.Look(t.Context())
			if err != nil || len(f.Images) != 1 || f.Images[0].UUID != testImage || f.Images[0].GUID == "" {
				t.Fatalf("found %+v %v", f, err)
			}
			if err := r.CloneImage(t.Context(), testImage, testInstance, 100); err != nil {
				t.Fatal(err)
			}
			to, err := r.Files(t.Context(), testInstance)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := to.ReadFile("/etc/hostname", 100); string(b) != "image\n" {
				t.Errorf("the clone has %q %v", b, err)
			}
			if err := to.Close(); err != nil {
				t.Error(err)
			}
			if err := r.DropImage(t.Context(), testImage); !errors.Is(err, syscall.EBUSY) {
				t.Errorf("an image with a clone is dropped: %v", err)
			}
			if err := errors.Join(r.DropInstance(t.Context(), testInstance), r.DropImage(t.Context(), testImage)); err != nil {
				t.Fatal(err)
			}
			if s := l.sets(); s != "" {
				t.Errorf("left: %s", s)
			}
		})
	}
}

// TestForeign: what the agent did not make is left alone, whatever its name.
func TestForeign(t *testing.T) {
	l, r := rootsLab(t)
	b := testTar(t)
	for _, name := range []string{testImage, testImage + "-partial", testInstance} {
		props := map[string]string{"mountpoint": "legacy", propImage: testUUID, propInstance: testUUID}
		if err := l.World.Create(t.Context(), "zones/"+name, props); err != nil {
			t.Fatal(err)
		}
	}
	before := l.sets()
	for what, err := range map[string]error{
		"import": r.ImportImage(t.Context(), specOf(b, api.FormatTar), bytes.NewReader(b), nil),
		"image":  r.DropImage(t.Context(), testImage),
		"drop":   r.DropInstance(t.Context(), testInstance),
		"quota":  r.SetQuota(t.Context(), testInstance, 100),
	} {
		if !errors.Is(err, ErrForeign) {
			t.Errorf("%s: %v", what, err)
		}
	}
	f, err := r.Look(t.Context())
	if err != nil || len(f.Foreign) != 3 || len(f.Images)+len(f.Instances)+len(f.Partials) != 0 {
		t.Errorf("found %+v %v", f, err)
	}
	if err := r.Tidy(t.Context(), f); err != nil || l.sets() != before {
		t.Errorf("changed to %s, %v", l.sets(), err)
	}
	for _, name := range []string{"", "..", "config", "a/b", strings.ToUpper(testInstance), testInstance + "@x"} {
		if err := r.DropInstance(t.Context(), name); err == nil || !strings.Contains(err.Error(), "no UUID") {
			t.Errorf("drop of %q: %v", name, err)
		}
	}
}

// TestInstances: clone, quota, spec and drop, each twice.
func TestInstances(t *testing.T) {
	l, r := rootsLab(t)
	ctx, b := t.Context(), testTar(t)
	if err := r.CloneImage(ctx, testImage, testInstance, 100); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("clone of no image: %v", err)
	}
	if err := r.ImportImage(ctx, specOf(b, api.FormatTar), bytes.NewReader(b), nil); err != nil {
		t.Fatal(err)
	}
	long := make([]byte, 40<<10)
	for i := range long {
		long[i] = byte(rand.IntN(256))
	}
	for range 2 {
		for what, err := range map[string]error{
			"clone": r.CloneImage(ctx, testImage, testInstance, 100),
			"spec":  r.KeepSpec(ctx, testInstance, long),
		} {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	to, err := r.Files(ctx, testInstance)
	if err == nil {
		err = errors.Join(to.WriteFile("big", make([]byte, 3<<20), Owner{os.Getuid(), os.Getgid(), 0o600}), to.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	var used *UsedError
	if err := r.SetQuota(ctx, testInstance, 2); !errors.As(err, &used) || used.UsedMiB != 4 || !strings.Contains(err.Error(), "quota of 2 MiB refused: the instance uses 4 MiB") {
		t.Errorf("a quota below use: %v", err)
	}
	if err := r.SetQuota(ctx, testInstance, 200); err != nil {
		t.Error(err)
	}
	short := []byte(`{"uuid":"` + testInstance + `","name":"größe"}`)
	for _, spec := range [][]byte{long, short} {
		if err := r.KeepSpec(ctx, testInstance, spec); err != nil {
			t.Fatal(err)
		}
		l.Calls()
		f, err := r.Look(ctx)
		if err != nil || len(l.Calls()) != 1 || len(f.Instances) != 1 {
			t.Fatalf("found %+v %v", f, err)
		}
		i := f.Instances[0]
		if i.UUID != testInstance || i.Image != testImage || i.QuotaMiB != 200 || !bytes.Equal(i.Spec, spec) || i.Problem != "" {
			t.Errorf("instance %+v", i)
		}
		if c := f.Images[0].Clones; len(c) != 1 || c[0] != "zones/"+testInstance {
			t.Errorf("clones %v", c)
		}
	}
	if err := r.KeepSpec(ctx, testInstance, append(long, long...)); err == nil || !strings.Contains(err.Error(), "less metadata") {
		t.Errorf("a spec that is too long: %v", err)
	}
	// Snapshots of any name go with it; those that are not its own stay.
	for _, s := range []string{"a", "b"} {
		if err := l.World.Snapshot(ctx, "zones/"+testInstance, s, false); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := r.DropInstance(ctx, testInstance); err != nil {
			t.Fatal(err)
		}
	}
	f, err := r.Look(ctx)
	if err != nil || len(f.Images) != 1 || len(f.Instances) != 0 || time.Since(f.Images[0].Idle) > time.Hour {
		t.Errorf("found %+v %v", f, err)
	}
}

// TestSpecProperties: what is kept is what was given, in properties that ZFS takes.
// TestHalfMadeClone: power went between the transaction that made a clone and the one that
// set its properties. The next try makes it an instance, with its quota; it was seen.
func TestHalfMadeClone(t *testing.T) {
	l, r := rootsLab(t)
	ctx := t.Context()
	b := testTar(t)
	if err := r.ImportImage(ctx, specOf(b, api.FormatTar), bytes.NewReader(b), nil); err != nil {
		t.Fatal(err)
	}
	if err := l.World.Clone(ctx, "zones/"+testImage+"@"+finalSnapshot, "zones/"+testInstance, map[string]string{}); err != nil {
		t.Fatal(err)
	}
	if f, err := r.Look(ctx); err != nil || len(f.Instances) > 0 {
		t.Fatalf("a clone without properties counts as an instance: %+v, %v", f, err)
	}
	for range 2 {
		if err := r.CloneImage(ctx, testImage, testInstance, 100); err != nil {
			t.Fatal(err)
		}
		f, err := r.Look(ctx)
		if err != nil || len(f.Instances) != 1 || f.Instances[0].QuotaMiB != 100 || len(f.Foreign) > 0 {
			t.Errorf("%+v, %v", f, err)
		}
	}
}

func TestSpecProperties(t *testing.T) {
	for _, n := range []int{0, 1, 5999, 20_000, MaxSpec - 100} {
		spec := make([]byte, n)
		for i := range spec {
			spec[i] = byte(rand.IntN(256))
		}
		props, err := writeSpec(spec)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range props {
			if len(v) > 8191 || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' }) {
				t.Errorf("%s has %d bytes", k, len(v))
			}
		}
		if got, err := readSpec(props); err != nil || !bytes.Equal(got, spec) {
			t.Errorf("%d bytes came back as %d, %v", n, len(got), err)
		}
		delete(props, propSpec)
		if n > 6000 {
			if _, err := readSpec(props); err == nil {
				t.Errorf("a spec of %d bytes whose first part is lost is read", n)
			}
		}
	}
}

// TestHolders: who has a dataset mounted is said by name.
func TestHolders(t *testing.T) {
	_, r := rootsLab(t)
	r.Proc = t.TempDir()
	for pid, ns := range map[int]string{1: "mnt:[1]", 40: "mnt:[2]", 41: "mnt:[2]", 50: "mnt:[3]"} {
		dir := filepath.Join(r.Proc, fmt.Sprint(pid))
		info := "22 1 0:20 / / rw - ext4 /dev/vda rw\n"
		if pid != 1 {
			info += "30 22 0:41 / /run/zone\\040a rw,nosuid shared:1 - zfs zones/" + testInstance + " rw,xattr\n"
		}
		for name, text := range map[string]string{"mountinfo": info, "comm": fmt.Sprintf("prog%d\n", pid)} {
			if err := errors.Join(os.MkdirAll(filepath.Join(dir, "ns"), 0o755), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(ns, filepath.Join(dir, "ns", "mnt")); err != nil {
			t.Fatal(err)
		}
	}
	err := r.holders(map[string]map[string]string{"zones/" + testInstance: nil})
	var busy *BusyError
	if !errors.As(err, &busy) || len(busy.Holders) != 2 || busy.Holders[1].PID != 50 || !errors.Is(err, syscall.EBUSY) {
		t.Fatalf("got %v", err)
	}
	if want := "process 50 (prog50) has zones/" + testInstance + " mounted at /run/zone\\040a"; !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := r.holders(map[string]map[string]string{"zones/other": nil}); err != nil {
		t.Errorf("nobody holds it: %v", err)
	}
}

// TestUnused: what goes, and in which order.
func TestUnused(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	ago := func(days int) time.Time { return now.AddDate(0, 0, -days) }
	images := []FoundImage{
		{UUID: "cloned", Idle: ago(100), Clones: []string{"zones/i"}, Used: 10},
		{UUID: "wanted", Idle: ago(100), Used: 10},
		{UUID: "new", Idle: ago(1), Used: 10},
		{UUID: "recent", Idle: ago(3), Used: 10},
		{UUID: "old", Idle: ago(8), Used: 10},
	}
	keep := func(uuid string) bool { return uuid == "wanted" }
	for used, want := range map[int64]string{50: "old", 85: "old", 95: "old recent", 100: "old recent", 130: "old recent new"} {
		var got []string
		for _, i := range (Collection{}).Unused(images, keep, 100, used, now) {
			got = append(got, i.UUID)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("with %d of 100 used: %v, want %s", used, got, want)
		}
	}
}
