package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"nereid/api"
)

// TestPowerLostAtEveryStep: power goes before and after every command that changes the
// pool, and what was not synced is gone. Run again from the start, it comes to the same
// end, and nothing that was there before is touched.
func TestPowerLostAtEveryStep(t *testing.T) {
	b := testTar(t)
	spec := specOf(b, api.FormatTar)
	l, r := rootsLab(t)
	stream, _ := l.stream(t)
	powerLost(t, l, r, []powerStep{
		{"import", func(ctx context.Context, _ *lab, r *Roots) error {
			return r.ImportImage(ctx, spec, bytes.NewReader(b), nil)
		}, "image"},
		{"create", func(ctx context.Context, _ *lab, r *Roots) error {
			return errors.Join(r.CloneImage(ctx, testImage, testInstance, 100), r.KeepSpec(ctx, testInstance, []byte("spec")))
		}, "image instance 100 spec"},
		{"change", func(ctx context.Context, _ *lab, r *Roots) error {
			return errors.Join(r.SetQuota(ctx, testInstance, 200), r.KeepSpec(ctx, testInstance, []byte("other")))
		}, "image instance 200 other"},
		{"drop", func(ctx context.Context, l *lab, r *Roots) error {
			err := l.World.Snapshot(ctx, "zones/"+testInstance, "s", false)
			if errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			return errors.Join(err, r.DropInstance(ctx, testInstance))
		}, "image"},
		{"collect", func(ctx context.Context, _ *lab, r *Roots) error { return r.DropImage(ctx, testImage) }, ""},
		{"import a stream", func(ctx context.Context, _ *lab, r *Roots) error {
			return r.ImportImage(ctx, specOf(stream, api.FormatZFS), bytes.NewReader(stream), nil)
		}, "image"},
	})
}

// TestPowerLostWithDisks is TestPowerLostAtEveryStep for a virtual machine.
func TestPowerLostWithDisks(t *testing.T) {
	disk := testDisk()
	create := func(disks ...api.VMDisk) func(context.Context, *lab, *Roots) error {
		return func(ctx context.Context, _ *lab, r *Roots) error {
			return r.CloneDisks(ctx, testInstance, disks, 100)
		}
	}
	grown := api.VMDisk{Name: "disk1", SizeMiB: 40}
	l, r := rootsLab(t)
	powerLost(t, l, r, []powerStep{
		{"import", func(ctx context.Context, _ *lab, r *Roots) error {
			return r.ImportImage(ctx, diskSpec(disk), bytes.NewReader(disk), nil)
		}, "image"},
		{"create", create(testDisks...), "image instance 167 disk0 8 disk1 20 "},
		{"grow and add", create(testDisks[0], grown, api.VMDisk{Name: "disk2", SizeMiB: 1}), "image instance 167 disk0 8 disk1 40 disk2 1 "},
		{"drop a disk", func(ctx context.Context, _ *lab, r *Roots) error { return r.DropDisk(ctx, testInstance, "disk1") }, "image instance 167 disk0 8 disk2 1 "},
		{"drop", func(ctx context.Context, l *lab, r *Roots) error { return r.DropInstance(ctx, testInstance) }, "image"},
		{"collect", func(ctx context.Context, _ *lab, r *Roots) error { return r.DropImage(ctx, testImage) }, ""},
	})
}

type powerStep struct {
	name string
	do   func(ctx context.Context, l *lab, r *Roots) error
	want string // what is there in the end
}

// powerLost has power go at each point of each step.
func powerLost(t *testing.T, l *lab, r *Roots, story []powerStep) {
	t.Helper()
	if err := l.World.Create(t.Context(), "zones/mine", nil); err != nil {
		t.Fatal(err)
	}
	for _, s := range story {
		for cut := 1; ; cut++ {
			n := 0
			l.Hook = func(string, bool) error {
				if n++; n >= cut {
					return errCut // nothing works once power is gone
				}
				return nil
			}
			err := s.do(t.Context(), l, r)
			l.Hook = nil
			if n < cut {
				if err != nil {
					t.Fatalf("%s: %v", s.name, err)
				}
				break
			}
			l.reboot()
			if _, err := l.Import(t.Context()); err != nil {
				t.Fatal(err)
			}
			r = l.roots()
			f, err := r.Look(t.Context())
			if err == nil {
				err = r.Tidy(t.Context(), f)
			}
			if err == nil {
				err = s.do(t.Context(), l, r)
			}
			if err != nil {
				t.Fatalf("%s, cut at %d, again: %v", s.name, cut, err)
			}
			if got := whatIs(t, l, r); got != s.want {
				t.Fatalf("%s, cut at %d: %q, want %q\n%s", s.name, cut, got, s.want, l.World)
			}
			// Back to where the step began, by the steps before it.
			for _, back := range []string{testInstance, testImage} {
				if err := errors.Join(r.DropInstance(t.Context(), back)); err != nil && !errors.Is(err, ErrForeign) {
					t.Fatal(err)
				}
			}
			if err := r.DropImage(t.Context(), testImage); err != nil {
				t.Fatal(err)
			}
			for _, before := range story {
				if before.name == s.name && before.want == s.want {
					break
				}
				if err := before.do(t.Context(), l, r); err != nil {
					t.Fatal(err)
				}
			}
		}
		if got := whatIs(t, l, r); got != s.want {
			t.Fatalf("%s: %q, want %q", s.name, got, s.want)
		}
	}
	if !strings.Contains(l.World.String(), "zones/mine") {
		t.Error("what was not listed is gone")
	}
}

// whatIs says in words what the pool holds, and looks at files.
func whatIs(t *testing.T, l *lab, r *Roots) string {
	t.Helper()
	f, err := r.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for range f.Images {
		words = append(words, "image")
	}
	for _, i := range f.Instances {
		words = append(words, "instance", fmt.Sprint(i.QuotaMiB))
		for _, d := range i.Disks {
			words = append(words, d.Name, fmt.Sprint(d.SizeMiB))
		}
		for _, s := range i.Snapshots {
			words = append(words, "@"+s.ID)
		}
		for _, id := range i.Rolled {
			words = append(words, "rolled", id)
		}
		words = append(words, string(i.Spec))
		if len(i.Disks) > 0 {
			continue
		}
		to, err := r.Files(t.Context(), i.UUID)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := to.ReadFile("etc/hostname", 100); string(b) != "image\n" {
			t.Errorf("the instance has %q %v", b, err)
		}
		to.Close()
	}
	for range f.Partials {
		words = append(words, "partial")
	}
	return strings.Join(words, " ")
}
