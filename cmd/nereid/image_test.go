package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	ocilayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
	"github.com/rogpeppe/go-internal/testscript"

	"nereid/api"
)

// writeImage is "image FILE ENTRY..." in the archives: a tar, compressed by zstd where the
// name says so, with these files.
func writeImage(name string, entries ...string) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	out := io.WriteCloser(f)
	if strings.HasSuffix(name, ".zst") {
		if out, err = zstd.NewWriter(f); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, out.Close()) }()
	}
	w := tar.NewWriter(out)
	for _, e := range entries {
		if err := w.WriteHeader(&tar.Header{Name: e, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(e)), ModTime: time.Unix(1, 0)}); err != nil {
			return err
		}
		if _, err := io.WriteString(w, e); err != nil {
			return err
		}
	}
	return w.Close()
}

// writeDisk is "disk FILE" in the archives: where the name ends in .qcow2 the disk of the
// fixtures, of 1,049,088 bytes, and else the bytes of one of 3 MiB with a boot sector.
func writeDisk(name string) (err error) {
	if !strings.HasSuffix(name, ".qcow2") {
		b := make([]byte, 3<<20)
		copy(b[510:], "\x55\xaa")
		return os.WriteFile(name, b, 0o644)
	}
	_, here, _, _ := runtime.Caller(0)
	b, err := os.ReadFile(filepath.Join(filepath.Dir(here), "../../fixtures/qcow2/v3.qcow2.gz"))
	if err != nil {
		return err
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return err
	}
	if b, err = io.ReadAll(z); err != nil {
		return err
	}
	return os.WriteFile(name, b, 0o644)
}

// writeLayout is "layout DIR TAR" in the archives: an OCI image layout with one layer.
func writeLayout(dir, layer string) error {
	l, err := tarball.LayerFromFile(layer)
	if err != nil {
		return err
	}
	i, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return err
	}
	c, err := i.ConfigFile()
	if err != nil {
		return err
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Config.Entrypoint = "linux", "amd64", []string{"/bin/app"}
	if i, err = mutate.ConfigFile(i, c); err != nil {
		return err
	}
	p, err := ocilayout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	return p.AppendImage(i)
}

// damageCommand is "damage UUID": a bit of an image's file on the head node's disk turns.
func damageCommand(ts *testscript.TestScript, _ bool, args []string) {
	name := filepath.Join(ts.Value("real").(*realHeadnode).dir, "instance-images", "files", args[0])
	b, err := os.ReadFile(name)
	ts.Check(err)
	b[len(b)/2] ^= 1
	ts.Check(os.Remove(name))
	ts.Check(os.WriteFile(name, b, 0o600))
}

// A download whose connection breaks, and one that was broken off, go on where they were;
// a file that changed meanwhile is fetched anew.
func TestImageDownload(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	tag, asked, cut := `"1"`, []string{}, 300_000
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Header.Get("Range"))
		w.Header().Set("ETag", tag)
		if r.URL.Path != "/i.tar" {
			http.NotFound(w, r)
			return
		}
		if cut > 0 {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			_, _ = w.Write(data[:cut])
			cut = 0
			panic(http.ErrAbortHandler)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}))
	defer srv.Close()
	a := newApp(strings.NewReader(""), io.Discard, io.Discard)
	d := &download{url: srv.URL + "/i.tar", name: filepath.Join(t.TempDir(), "f"), bar: a.newBar("i", 0)}
	fetch := func() error { return d.run(t.Context()) }
	check := func(what string) {
		t.Helper()
		got, err := os.ReadFile(d.name)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v; asked %q", what, len(got), err, asked)
		}
	}
	if err := fetch(); err != nil {
		t.Fatal(err)
	}
	check("cut")
	if len(asked) != 2 || asked[0] != "" || !strings.HasPrefix(asked[1], "bytes=") {
		t.Errorf("asked %q", asked)
	}
	if err := fetch(); err != nil { // all is there
		t.Fatal(err)
	}
	check("again")
	if err := os.Truncate(d.name, 1000); err != nil {
		t.Fatal(err)
	}
	data, tag = bytes.Repeat([]byte("abc"), 1000), `"2"`
	if err := fetch(); err != nil {
		t.Fatal(err)
	}
	check("changed")
	d.url = srv.URL + "/no"
	if err := fetch(); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("not there: %v", err)
	}
}

// What an image's UUID follows from: its bytes, owner, name and version, nothing else.
func TestUUIDFor(t *testing.T) {
	i := api.Image{Name: "a", Version: "1", Owner: noOwner, Files: []api.ImageFile{{Digest: "sha256:x"}}}
	first := uuidFor(i)
	i.Description, i.Source = "x", "y"
	if uuidFor(i) != first || len(first) != 36 || first[14] != '8' {
		t.Errorf("%s, then %s", first, uuidFor(i))
	}
	i.Version = "2"
	if uuidFor(i) == first {
		t.Error("another version has the same UUID")
	}
}
