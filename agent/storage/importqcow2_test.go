package storage

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
	"nereid/images/qcow2"
)

// qcow2Disk is the SHA-256 of the disk in the fixtures, of 1,049,088 bytes.
const qcow2Disk = "24b3c32d4522cfdd66b3e54e8a1761198f37111f51b99f333801dd562e92cfc7"

// qcow2Image is a fixture, and its spec. It is compressed once more, as a manifest of
// IMGAPI may say.
func qcow2Image(t testing.TB, name string) ([]byte, api.ImageSpec) {
	t.Helper()
	b, err := os.ReadFile("../../fixtures/qcow2/" + name + ".qcow2.gz")
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	spec := specOf(b, api.FormatQCOW2)
	spec.Type, spec.SizeMiB, spec.File.Compression, spec.File.UncompressedSize = api.ImageZvol, 2, "gzip", int64(len(plain))
	return plain, spec
}

func zipped(t testing.TB, plain []byte, spec *api.ImageSpec) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write(plain)
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b.Bytes())
	spec.File.Size, spec.File.Digest, spec.File.UncompressedSize = int64(b.Len()), "sha256:"+hex.EncodeToString(sum[:]), int64(len(plain))
	return b.Bytes()
}

// TestImportQCOW2: what QEMU wrote becomes the same volume as the bytes of its disk.
func TestImportQCOW2(t *testing.T) {
	l, r := rootsLab(t)
	ctx := t.Context()
	for _, name := range []string{"v3", "v2-deflate", "v3-zstd"} {
		plain, spec := qcow2Image(t, name)
		file := zipped(t, plain, &spec)
		for range 2 {
			if err := r.ImportImage(ctx, spec, bytes.NewReader(file), nil); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if d := cmp.Diff("  zones/IMAGE volume of 1064960 nereid:image=IMAGE readonly=on refreservation=none volmode=none\n    @final\n", l.sets()); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		if err := l.World.Clone(ctx, "zones/"+testImage+"@final", "zones/clone", nil); err != nil {
			t.Fatal(err)
		}
		b := l.onDisk(t, "zones/clone")
		if sum := sha256.Sum256(b[:1049088]); hex.EncodeToString(sum[:]) != qcow2Disk || !zeros(b[1049088:]) {
			t.Errorf("%s: other bytes than those of its disk", name)
		}
		if err := errors.Join(l.World.Destroy(ctx, "zones/clone"), r.DropImage(ctx, testImage)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestImportQCOW2Refuses: files that lie, or that would have others opened, leave nothing;
// one that was changed on the way is not looked into.
func TestImportQCOW2Refuses(t *testing.T) {
	l, r := rootsLab(t)
	for what, c := range map[string]struct {
		change func(b []byte, spec *api.ImageSpec)
		want   string
	}{
		"backing file":     {func(b []byte, _ *api.ImageSpec) { b[15] = 200 }, "changes to another file"},
		"encrypted":        {func(b []byte, _ *api.ImageSpec) { b[35] = 1 }, "encrypted"},
		"damaged table":    {func(b []byte, _ *api.ImageSpec) { copy(b[len(b)/2:], bytes.Repeat([]byte{255}, 20000)) }, "refused"},
		"other size":       {func(_ []byte, s *api.ImageSpec) { s.SizeMiB = 1 }, "has 2 MiB, not 1"},
		"no qcow2":         {func(b []byte, _ *api.ImageSpec) { b[0] = 0 }, "does not begin as one"},
		"as a zone's":      {func(_ []byte, s *api.ImageSpec) { s.Type = api.ImageLXDataset }, "makes no image of type"},
		"wrong compressed": {func(_ []byte, s *api.ImageSpec) { s.File.Compression = "zstd" }, "by its first bytes it has gzip"},
	} {
		plain, spec := qcow2Image(t, "v2-deflate")
		c.change(plain, &spec)
		err := r.ImportImage(t.Context(), spec, bytes.NewReader(zipped(t, plain, &spec)), nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", what, err, c.want)
		}
		if s := l.sets(); s != "" {
			t.Errorf("%s left %s", what, s)
		}
	}
	plain, spec := qcow2Image(t, "v3")
	zipped(t, plain, &spec)
	plain[35] = 1
	other := spec
	bad := zipped(t, plain, &other)
	spec.File.Size = int64(len(bad))
	err := r.ImportImage(t.Context(), spec, bytes.NewReader(bad), nil)
	var no *qcow2.RefusedError
	if err == nil || errors.As(err, &no) || !strings.Contains(err.Error(), "changed on the way") {
		t.Errorf("changed on the way: %v", err)
	}
}

// TestPowerLostWithQCOW2 is TestPowerLostAtEveryStep for its import.
func TestPowerLostWithQCOW2(t *testing.T) {
	plain, spec := qcow2Image(t, "v3-zstd")
	file := zipped(t, plain, &spec)
	l, r := rootsLab(t)
	powerLost(t, l, r, []powerStep{{"import", func(ctx context.Context, _ *lab, r *Roots) error {
		return r.ImportImage(ctx, spec, bytes.NewReader(file), nil)
	}, "image"}})
}
