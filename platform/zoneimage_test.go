package platform

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/images/tree"
)

// zoneRoot is a small tree whose files were made at a time.
func zoneRoot(t *testing.T, at time.Time) string {
	t.Helper()
	root := t.TempDir()
	for _, name := range []string{"usr/bin/b", "usr/bin/a", "etc/machine-id", "etc/resolv.conf", "var/log/apt.log", "tmp/x"} {
		p := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(name), 0o644), os.Chtimes(p, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "etc", "shadow"), []byte("root:*:1::::::\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}

func testRunner(t *testing.T) *runner {
	return &runner{log: t.Output(), path: "test.log", tick: func(string) {}}
}

// TestPackZone: two trees that differ in their times alone give the same bytes, without
// identities and logs, and the manifest says what they are.
func TestPackZone(t *testing.T) {
	const epoch = 1_700_000_000
	var first api.ImageFile
	for n, at := range []time.Time{time.Unix(epoch+5, 0), time.Unix(epoch+90000, 0)} {
		root := zoneRoot(t, at)
		if err := furnishZone(ImageDebian, root); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), ImageFileName)
		file, err := packZone(t.Context(), testRunner(t), root, out, epoch)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			first = file
		} else if file != first {
			t.Errorf("the same tree is %+v, and later %+v", first, file)
		}
		f, err := os.Open(out)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		c, err := tree.Check(t.Context(), f, file.Compression, file.Format, tree.DefaultLimits())
		if err != nil || c.Size != file.UncompressedSize || c.Digest != file.UncompressedDigest {
			t.Errorf("read again: %+v %v, want %+v", c, err, file)
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		plain, err := tree.Decompress(f, "", tree.DefaultLimits())
		if err != nil {
			t.Fatal(err)
		}
		names := map[string]int64{}
		for r := tree.NewReader(plain, tree.DefaultLimits()); ; {
			e, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			names[e.Path] = e.Size
		}
		for name, want := range map[string]bool{"usr/bin/a": true, "etc/machine-id": true, "etc/resolv.conf": false, "var/log/apt.log": false, "tmp/x": false, "etc/systemd/system/getty@.service": true} {
			if _, ok := names[name]; ok != want {
				t.Errorf("%s is in the image: %v", name, ok)
			}
		}
		if names["etc/machine-id"] != 0 {
			t.Error("clones would share a machine-id")
		}
	}
	m := zoneManifest(ImageDebian, "trixie", zoneKinds[ImageDebian], first, epoch)
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(m.UUID) || m.Version != "trixie-20231114" {
		t.Errorf("manifest %+v", m)
	}
}

// TestPackZoneFails: a program that fails leaves an error that says which.
func TestPackZoneFails(t *testing.T) {
	_, err := packZone(t.Context(), testRunner(t), filepath.Join(t.TempDir(), "none"), filepath.Join(t.TempDir(), "x"), 1)
	if err == nil || !strings.Contains(err.Error(), "run tar") {
		t.Errorf("got %v", err)
	}
}

// TestZoneOCI: every blob is what its name says, and the layer is the tree.
func TestZoneOCI(t *testing.T) {
	root := zoneRoot(t, time.Unix(1e9, 0))
	cache := t.TempDir()
	from := made{dir: t.TempDir()}
	file, err := packZone(t.Context(), testRunner(t), root, from.file(ImageFileName), 1e9)
	if err != nil {
		t.Fatal(err)
	}
	image := zoneManifest(ImageTiny, "trixie", zoneKinds[ImageTiny], file, 1e9)
	show := &progress{w: io.Discard, now: time.Now}
	b := &build{Options: Options{Out: filepath.Join(t.TempDir(), "oci"), Cache: cache}, show: show, stages: &stages{cache: cache, show: show, now: time.Now}}
	for range 2 { // the second comes from the cache, and replaces
		oci, err := b.zoneOCI(t.Context(), ImageTiny, image, from)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.placeImage(oci, true); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string, into any) {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(b.Out, name))
		if err == nil {
			err = json.Unmarshal(data, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	blob := func(d ociDescriptor) string {
		t.Helper()
		name := filepath.Join("blobs", "sha256", strings.TrimPrefix(d.Digest, "sha256:"))
		got, err := hashFile(filepath.Join(b.Out, name))
		if err != nil || "sha256:"+got.SHA256 != d.Digest || got.Size != d.Size {
			t.Errorf("blob %+v is %+v, %v", d, got, err)
		}
		return name
	}
	var layout struct{ ImageLayoutVersion string }
	var index struct{ Manifests []ociDescriptor }
	var manifest struct {
		Config ociDescriptor
		Layers []ociDescriptor
	}
	var config struct {
		Architecture, OS string
		Config           struct {
			Entrypoint []string
			StopSignal string
		}
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	read("oci-layout", &layout)
	read("index.json", &index)
	read(blob(index.Manifests[0]), &manifest)
	read(blob(manifest.Config), &config)
	if layout.ImageLayoutVersion != "1.0.0" || config.Architecture != "amd64" || config.OS != "linux" || config.Config.StopSignal != "SIGUSR2" || config.Config.Entrypoint[0] != "/sbin/init" {
		t.Errorf("%+v %+v", layout, config)
	}
	layer, err := os.ReadFile(filepath.Join(b.Out, blob(manifest.Layers[0])))
	if err != nil {
		t.Fatal(err)
	}
	c, err := tree.Check(t.Context(), bytes.NewReader(layer), "gzip", api.FormatTar, tree.DefaultLimits())
	if err != nil || len(config.RootFS.DiffIDs) != 1 || c.Digest != config.RootFS.DiffIDs[0] {
		t.Errorf("layer %+v %v, want %v", c, err, config.RootFS.DiffIDs)
	}
}

// TestReplaceableImage: a directory with something else in it is not replaced.
func TestReplaceableImage(t *testing.T) {
	dir := t.TempDir()
	if err := replaceableImage(dir); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "thesis.odt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := replaceableImage(dir); err == nil || !strings.Contains(err.Error(), "thesis.odt") {
		t.Errorf("got %v", err)
	}
	if _, err := BuildImage(t.Context(), ImageOptions{Kind: "windows", Out: dir}); err == nil || !strings.Contains(err.Error(), "want debian or tiny") {
		t.Errorf("got %v", err)
	}
}
