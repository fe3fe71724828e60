package oci

import (
	"archive/tar"
	"bytes"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"nereid/api"
)

func layerOf(t *testing.T, names ...string) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, n := range names {
		if err := w.WriteHeader(&tar.Header{Name: n, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(n))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, n); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func imageOf(t *testing.T, arch string, layers ...v1.Layer) v1.Image {
	t.Helper()
	i, err := mutate.AppendLayers(empty.Image, layers...)
	if err == nil {
		c, _ := i.ConfigFile()
		c = c.DeepCopy()
		c.OS, c.Architecture = "linux", arch
		c.Config = v1.Config{Entrypoint: []string{"/bin/app"}, Cmd: []string{"-v"}, Env: []string{"A=b"}, User: "app", WorkingDir: "/srv", StopSignal: "SIGINT"}
		i, err = mutate.ConfigFile(i, c)
	}
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// An index with an attestation, another architecture and ours, in that order, out of a
// registry: ours is taken, its layers are flattened, and how it is started is kept.
func TestRemote(t *testing.T) {
	srv := httptest.NewServer(registry.New())
	defer srv.Close()
	ours := imageOf(t, "amd64", layerOf(t, "etc/a", "etc/b"), layerOf(t, "etc/.wh.a", "bin/app"))
	idx := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: imageOf(t, "x", layerOf(t, "att")), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}},
		mutate.IndexAddendum{Add: imageOf(t, "arm64", layerOf(t, "arm")), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}},
		mutate.IndexAddendum{Add: ours, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	host := strings.TrimPrefix(srv.URL, "http://")
	push := func(ref string, what any) {
		t.Helper()
		r, err := name.ParseReference(host + ref)
		if err == nil {
			if i, is := what.(v1.Image); is {
				err = remote.Write(r, i)
			} else {
				err = remote.WriteIndex(r, what.(v1.ImageIndex))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	push("/lib/app:1.2", idx)
	i, err := Remote(t.Context(), host+"/lib/app:1.2")
	if err != nil {
		t.Fatal(err)
	}
	if i.Name != "app" || i.Version != "1.2" {
		t.Errorf("%s %s", i.Name, i.Version)
	}
	want := api.ImageRun{Init: []string{"/bin/app", "-v"}, Env: []string{"A=b"}, User: "app", WorkingDir: "/srv", StopSignal: "SIGINT"}
	if d := cmp.Diff(want, i.Run); d != "" {
		t.Error(d)
	}
	flat(t, i, "bin/", "bin/app", "etc/", "etc/b")
	push("/lib/arm:1", imageOf(t, "arm64", layerOf(t, "arm")))
	if _, err := Remote(t.Context(), host+"/lib/arm:1"); err == nil || !strings.Contains(err.Error(), "linux/arm64, not linux/amd64") {
		t.Errorf("another architecture: %v", err)
	}
}

// flat flattens an image and compares the names.
func flat(t *testing.T, i *Image, want ...string) {
	t.Helper()
	var b bytes.Buffer
	used, _, err := i.Flatten(t.Context(), t.TempDir(), &b, func(string, int64, int64) {})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, h.Name)
	}
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" || len(used) != 2 {
		t.Errorf("%s; files %v", d, used)
	}
}

// A layout on disk; one whose layer was changed is refused, and nothing of it is kept.
func TestLayout(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "app")
	p, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = p.AppendImage(imageOf(t, "amd64", layerOf(t, "a"), layerOf(t, "b")))
	}
	if err != nil {
		t.Fatal(err)
	}
	i, err := Layout(dir)
	if err != nil {
		t.Fatal(err)
	}
	flat(t, i, "a", "b")
	layers, err := i.image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	d, err := layers[1].Digest()
	if err != nil {
		t.Fatal(err)
	}
	blob := filepath.Join(dir, "blobs", "sha256", d.Hex)
	b, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(blob, b, 0o600); err != nil {
		t.Fatal(err)
	}
	cache := t.TempDir()
	_, _, err = i.Flatten(t.Context(), cache, io.Discard, func(string, int64, int64) {})
	if err == nil || !strings.Contains(err.Error(), "layer 2 of 2") {
		t.Errorf("a changed layer: %v", err)
	}
	if ents, err := os.ReadDir(cache); err != nil || len(ents) != 1 {
		t.Errorf("kept: %v %v", ents, err)
	}
	if _, err := Layout(t.TempDir()); err == nil {
		t.Error("an empty directory is a layout")
	}
}
