package headnode

import (
	"archive/tar"
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode/instances"
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

const imageUUID = "0d9e5e6c-7c1e-4c9c-8a75-6f2f39ab9a9a"

// sampleImage is the manifest of an image with those bytes.
func sampleImage(b []byte) api.Image {
	sum := sha256.Sum256(b)
	return api.Image{UUID: imageUUID, Name: "debian", Version: "13", Owner: alice, Type: api.ImageLXDataset,
		Files: []api.ImageFile{{Format: api.FormatTar, Compression: "none", Size: int64(len(b)), Digest: "sha256:" + hex.EncodeToString(sum[:])}}}
}

// rootTar is a small root file system.
func rootTar(t *testing.T, hs ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	body := strings.Repeat("x", 300_000)
	hs = append([]tar.Header{{Name: "sbin/init", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(body))}}, hs...)
	for _, h := range hs {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body[:h.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// bring imports an image as the CLI does, up to its check.
func (h *head) bring(i api.Image, b []byte) (api.Image, error) {
	ctx := h.t.Context()
	i, err := h.client.Images().Create(ctx, i)
	if err == nil {
		err = h.client.UploadImage(ctx, i, bytes.NewReader(b), nil)
	}
	if err != nil {
		return i, err
	}
	return h.client.VerifyImage(ctx, i.UUID)
}

// files are the images' files that are on disk, with partial ones.
func (h *head) files() (names []string) {
	h.t.Helper()
	for _, sub := range []string{"files", "partial"} {
		ents, err := os.ReadDir(filepath.Join(h.dir, diskImages, sub))
		if err != nil {
			h.t.Fatal(err)
		}
		for _, e := range ents {
			names = append(names, sub+"/"+e.Name())
		}
	}
	return names
}

func TestImageLife(t *testing.T) {
	h := startHead(t)
	ctx := t.Context()
	b := rootTar(t)
	i, err := h.bring(sampleImage(b), b)
	if err != nil || i.State != api.ImageUnactivated || i.Files[0].UncompressedSize != int64(len(b)) || i.Files[0].UncompressedDigest != i.Files[0].Digest {
		t.Fatalf("%+v %v", i, err)
	}
	if i, err = h.client.ActivateImage(ctx, "debian@13"); err != nil || i.State != api.ImageActive {
		t.Fatalf("%+v %v", i, err)
	}
	if got, err := h.client.Images().Get(ctx, "debian"); err != nil || got.UUID != imageUUID {
		t.Errorf("by name: %+v %v", got, err)
	}
	for _, from := range []int64{0, 1, int64(len(b)) - 1} {
		r, err := h.client.OpenImage(ctx, imageUUID, from, int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, b[from:]) {
			t.Errorf("from %d: %d bytes, %v", from, len(got), err)
		}
		r.Close()
	}
	if _, err := h.bring(sampleImage(b), b); codeOf(err) != api.CodeConflict || !strings.Contains(err.Error(), "imported already") {
		t.Errorf("again: %v", err)
	}
	if i, err = h.client.VerifyImage(ctx, imageUUID); err != nil || i.State != api.ImageActive {
		t.Errorf("verify: %+v %v", i, err)
	}
	if i, err = h.client.DisableImage(ctx, imageUUID); err != nil || i.State != api.ImageDisabled {
		t.Errorf("disable: %+v %v", i, err)
	}
	if err := h.client.Images().Delete(ctx, imageUUID); err != nil {
		t.Errorf("delete: %v", err)
	}
	if f := h.files(); len(f) != 0 {
		t.Errorf("left on disk: %v", f)
	}
}

// An upload that ends at some bytes, each time with another head node: it goes on where
// it was, and nobody sees a part of it.
func TestImageResumes(t *testing.T) {
	dir := initDir(t, 250)
	b := rootTar(t)
	at := 0
	for _, end := range []int{1, 511, 200_000, len(b) - 1, len(b)} {
		h := startIn(t, dir)
		i, err := h.client.Images().Create(t.Context(), sampleImage(b))
		if err != nil || i.State != api.ImageCreating {
			t.Fatalf("at %d: %+v %v", at, i, err)
		}
		if at > 0 && h.ask("HEAD", "/v1/images/"+imageUUID+"/file", "").status != http.StatusOK {
			t.Errorf("HEAD at %d is refused", at)
		}
		if a := h.ask("GET", "/v1/images/"+imageUUID+"/file", ""); a.status != http.StatusNotFound {
			t.Errorf("a part is given away: %d", a.status)
		}
		_, err = h.client.VerifyImage(t.Context(), imageUUID)
		wantCode(t, "check of a part", err, api.CodeConflict)
		_, err = h.client.ActivateImage(t.Context(), imageUUID)
		wantCode(t, "activate a part", err, api.CodeConflict)
		h.put(b, at, end)
		at = end
		h.stop()
	}
	h := startIn(t, dir) // it was killed before the check
	if a := h.ask("GET", "/v1/images/"+imageUUID+"/file", ""); a.status != http.StatusNotFound {
		t.Errorf("a file that nobody checked is given away: %d", a.status)
	}
	if i, err := h.bring(sampleImage(b), b); err != nil || i.State != api.ImageUnactivated {
		t.Fatalf("%+v %v", i, err)
	}
}

// put sends the bytes from one to another offset.
func (h *head) put(b []byte, from, to int) {
	h.t.Helper()
	a := h.ask("PUT", "/v1/images/"+imageUUID+"/file", string(b[from:to]), "Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(b)))
	if a.status != http.StatusNoContent {
		h.t.Fatalf("bytes %d to %d: %d %s", from, to, a.status, a.body)
	}
}

// Files that may not be: the import says why with the entry's name, the image is failed,
// nothing of it is left on disk, and it can be imported again at once.
func TestImageRefused(t *testing.T) {
	h := startHead(t)
	good := rootTar(t)
	for name, tt := range map[string]struct {
		b    []byte
		set  func(*api.Image)
		want string
	}{
		"out of the root": {b: rootTar(t, tar.Header{Name: "a/../../p", Typeflag: tar.TypeReg}), want: `entry "a/../../p"`},
		"owner":           {b: rootTar(t, tar.Header{Name: "big", Typeflag: tar.TypeReg, Uid: 606400022, Format: tar.FormatGNU}), want: `entry "big": it belongs to 606400022:0`},
		"no tar":          {b: bytes.Repeat([]byte("junk"), 500), want: "the tar cannot be read"},
		"other format":    {b: good, set: func(i *api.Image) { i.Files[0].Format = api.FormatZFS }, want: "by its first bytes it has tar"},
		"compression":     {b: good, set: func(i *api.Image) { i.Files[0].Compression = "gzip" }, want: "by its first bytes it has none"},
		"SHA-1":           {b: good, set: func(i *api.Image) { i.Files[0].SHA1 = strings.Repeat("0", 40) }, want: "its SHA-1 is"},
		"length":          {b: good, set: func(i *api.Image) { i.Files[0].UncompressedSize = 7 }, want: "not 7 as its manifest says"},
	} {
		t.Run(name, func(t *testing.T) {
			i := sampleImage(tt.b)
			if tt.set != nil {
				tt.set(&i)
			}
			_, err := h.bring(i, tt.b)
			wantCode(t, name, err, api.CodeDigest)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v; want %s", err, tt.want)
			}
			got, err := h.client.Images().Get(t.Context(), imageUUID)
			if err != nil || got.State != api.ImageFailed || !strings.Contains(got.Error, tt.want) {
				t.Errorf("%+v %v", got, err)
			}
			if f := h.files(); len(f) != 0 {
				t.Errorf("left on disk: %v", f)
			}
		})
	}
	i := sampleImage(good)
	sum := sha1.Sum(good)
	i.Files[0].SHA1 = hex.EncodeToString(sum[:])
	if i, err := h.bring(i, good); err != nil || i.State != api.ImageUnactivated {
		t.Errorf("imported again: %+v %v", i, err)
	}
	// Other bytes than were announced: nothing is kept, and the image waits for the right ones.
	other := sampleImage(append(bytes.Clone(good[:len(good)-1]), 'x'))
	other.UUID = "1d9e5e6c-7c1e-4c9c-8a75-6f2f39ab9a9a"
	_, err := h.bring(other, good)
	wantCode(t, "other bytes", err, api.CodeDigest)
	if f := h.files(); len(f) != 1 {
		t.Errorf("on disk: %v", f)
	}
}

// Devices are left out, and the import goes on.
func TestImageDevices(t *testing.T) {
	h := startHead(t)
	b := rootTar(t, tar.Header{Name: "dev/sda", Typeflag: tar.TypeBlock, Devmajor: 8})
	if i, err := h.bring(sampleImage(b), b); err != nil || i.State != api.ImageUnactivated {
		t.Errorf("%+v %v", i, err)
	}
}

// Verify finds bytes that a disk changed, takes the file away, and a new import mends it.
func TestImageVerifyFindsDamage(t *testing.T) {
	h := startHead(t)
	b := rootTar(t)
	if _, err := h.bring(sampleImage(b), b); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(h.dir, diskImages, "files", imageUUID)
	bad := bytes.Clone(b)
	bad[1000] ^= 1
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := h.client.VerifyImage(t.Context(), imageUUID)
	wantCode(t, "damaged", err, api.CodeDigest)
	if f := h.files(); len(f) != 0 {
		t.Errorf("left on disk: %v", f)
	}
	if i, err := h.bring(sampleImage(b), b); err != nil || i.State != api.ImageUnactivated {
		t.Errorf("imported again: %+v %v", i, err)
	}
}

// Who gets an image's bytes: an operator's token, and the servers whose set names it.
func TestImageAccess(t *testing.T) {
	h := startHead(t)
	b := rootTar(t)
	if _, err := h.bring(sampleImage(b), b); err != nil {
		t.Fatal(err)
	}
	m := runningServer(h, 1)
	err := m.getImage(t, 0, b)
	wantCode(t, "a server that does not need it", err, api.CodeForbidden)
	if err == nil || !strings.Contains(err.Error(), "has no instance that needs image \""+imageUUID) {
		t.Errorf("the reason: %v", err)
	}
	edit := func(fn func(e *journal.Editor) error) {
		err := h.store.Update(t.Context(), func(tx store.Tx) error {
			_, err := journal.Edit(tx, instances.ImageSet(m.uuid), fn)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	edit(func(e *journal.Editor) error { return e.Put(imageUUID, []byte(`{}`)) })
	for _, from := range []int{0, 100} {
		if err := m.getImage(t, from, b); err != nil {
			t.Errorf("a server that needs it, from %d: %v", from, err)
		}
	}
	wantCode(t, "another server", runningServer(h, 2).getImage(t, 0, b), api.CodeForbidden)
	edit(func(e *journal.Editor) error { return e.Delete(imageUUID) })
	wantCode(t, "a server that needs it no more", m.getImage(t, 0, b), api.CodeForbidden)
	m.cert = nil
	wantCode(t, "nobody", m.getImage(t, 0, b), api.CodeUnauthorized)
}

// getImage fetches the image's bytes as a server's agent does.
func (m *machine) getImage(t *testing.T, from int, b []byte) error {
	t.Helper()
	c := api.NewClient("https://" + m.h.HTTPS().String())
	defer c.Close()
	c.CASHA256 = m.h.CASHA256()
	if m.cert != nil {
		block, _ := pem.Decode(m.cert)
		c.Certificate = &tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: m.key}
	}
	r, err := c.OpenImage(t.Context(), imageUUID, int64(from), int64(len(b)))
	if err != nil {
		return err
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err == nil && !bytes.Equal(got, b[from:]) {
		err = fmt.Errorf("%d bytes from %d are others", len(got), from)
	}
	return err
}

// A collection takes what failed, what was given up and what was disabled, and files that
// no image has, as a crash between a deletion's two halves leaves them.
func TestImageCollect(t *testing.T) {
	h := startHead(t)
	b := rootTar(t)
	if _, err := h.bring(sampleImage(b), b); err != nil {
		t.Fatal(err)
	}
	stray := filepath.Join(h.dir, diskImages, "partial", "1d9e5e6c-7c1e-4c9c-8a75-6f2f39ab9a9a")
	if err := os.WriteFile(stray, []byte("stray"), 0o600); err != nil {
		t.Fatal(err)
	}
	begun := sampleImage(b)
	begun.UUID = "2d9e5e6c-7c1e-4c9c-8a75-6f2f39ab9a9a"
	if _, err := h.client.Images().Create(t.Context(), begun); err != nil {
		t.Fatal(err)
	}
	out, err := h.client.CollectImages(t.Context())
	if err != nil || len(out.Images) != 0 || out.Files != 1 || out.FreedBytes != 5 {
		t.Errorf("%+v %v", out, err)
	}
	if _, err := h.client.DisableImage(t.Context(), imageUUID); err != nil {
		t.Fatal(err)
	}
	h.advance(25 * time.Hour)
	if out, err := h.collectImages(t.Context(), false); err != nil || len(out.Images) != 1 || out.Files != 0 {
		t.Errorf("by itself: %+v %v", out, err)
	}
	if out, err = h.client.CollectImages(t.Context()); err != nil || len(out.Images) != 1 || out.Files != 1 {
		t.Errorf("asked for: %+v %v", out, err)
	}
	if f := h.files(); len(f) != 0 {
		t.Errorf("left on disk: %v", f)
	}
}
