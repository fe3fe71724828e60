package headnode

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/images"
)

// makePlatform makes a signed platform whose files say what they are.
func makePlatform(t *testing.T, stamp string) (api.SignedManifest, ed25519.PrivateKey, map[string][]byte) {
	t.Helper()
	key, err := images.CreateKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	file := func(name string) api.File {
		b := []byte(strings.Repeat(name+" of "+stamp+"\n", 10))
		sum := sha256.Sum256(b)
		f := api.File{Name: name, SHA256: hex.EncodeToString(sum[:]), Size: int64(len(b))}
		files[f.SHA256] = b
		return f
	}
	b, err := json.Marshal(api.Manifest{
		Stamp: stamp, Arch: "x86_64", Kernel: file("vmlinuz"), Initrd: file("initrd.img"), Packages: file("packages.json"),
		Layers: []api.File{file("base.squashfs"), file("nereid.squashfs")}, KernelVersion: "6.12", ZFSVersion: "2.3", AgentVersion: "1", Suite: "trixie",
	})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := images.Sign(b, key)
	if err != nil {
		t.Fatal(err)
	}
	return signed, key, files
}

func TestPlatformImport(t *testing.T) {
	h := startHead(t)
	ctx := context.Background()
	signed, key, files := makePlatform(t, "20261122T101500Z")
	_, err := h.client.AddPlatform(ctx, signed)
	wantCode(t, "no key at all", err, api.CodeSignature)
	if err := h.client.AddPlatformKey(ctx, api.PlatformKey{Name: "mine", Key: images.FormatPublicKey(images.PublicKey(key))}); err != nil {
		t.Fatal(err)
	}
	foreign, _, _ := makePlatform(t, "20261122T101501Z")
	_, err = h.client.AddPlatform(ctx, foreign)
	wantCode(t, "another key", err, api.CodeSignature)
	changed := signed
	changed.Manifest = append(slices.Clone(signed.Manifest), ' ')
	_, err = h.client.AddPlatform(ctx, changed)
	wantCode(t, "changed after signing", err, api.CodeSignature)

	p, err := h.client.AddPlatform(ctx, signed)
	if err != nil || p.Complete || len(p.Missing) != 5 {
		t.Fatalf("registered: %+v %v", p, err)
	}
	if err := h.client.SetDefaultPlatform(ctx, p.Manifest.Stamp); err == nil {
		t.Error("an incomplete platform became the default")
	}
	kernel := p.Manifest.Kernel
	wrong := bytes.Repeat([]byte("x"), int(kernel.Size))
	err = h.client.Upload(ctx, kernel, bytes.NewReader(wrong), nil)
	wantCode(t, "wrong bytes", err, api.CodeDigest)
	if off, done, err := h.client.FileOffset(ctx, kernel.SHA256); off != 0 || done || err != nil {
		t.Errorf("something of the wrong bytes was kept: %d %v %v", off, done, err)
	}
	err = h.client.Upload(ctx, api.File{Name: "x", SHA256: strings.Repeat("0", 64), Size: 3}, strings.NewReader("abc"), nil)
	wantCode(t, "a file nobody misses", err, api.CodeForbidden)
	longer := kernel
	longer.Size++
	err = h.client.Upload(ctx, longer, bytes.NewReader(append(files[kernel.SHA256], 0)), nil)
	wantCode(t, "wrong size", err, api.CodeInvalid)

	// The head node is restarted between two files of the import.
	if err := h.client.Upload(ctx, kernel, bytes.NewReader(files[kernel.SHA256]), nil); err != nil {
		t.Fatal(err)
	}
	h.stop()
	h = startIn(t, h.dir)
	if p, err = h.client.Platform(ctx, p.Manifest.Stamp); err != nil || len(p.Missing) != 4 {
		t.Fatalf("after a restart: %+v %v", p, err)
	}
	for _, f := range p.Manifest.Files() {
		if err := h.client.Upload(ctx, f, bytes.NewReader(files[f.SHA256]), nil); err != nil {
			t.Fatal(err)
		}
	}
	all, err := h.client.Platforms(ctx)
	if err != nil || len(all) != 1 || !all[0].Complete || !all[0].Default {
		t.Fatalf("complete: %+v %v", all, err)
	}
	if again, err := h.client.AddPlatform(ctx, signed); err != nil || !again.Complete {
		t.Errorf("registered again: %+v %v", again, err)
	}
	if got, err := h.Manifest(ctx, p.Manifest.Stamp); err != nil || !bytes.Equal(got.Manifest, signed.Manifest) || !bytes.Equal(got.Signature, signed.Signature) {
		t.Errorf("manifest as it was signed: %v", err)
	}
	wantCode(t, "key in use", h.client.DeletePlatformKey(ctx, "mine"), api.CodeInUse)
	if err := h.client.DeletePlatform(ctx, p.Manifest.Stamp); err == nil {
		t.Error("the default platform was deleted")
	}

	// A byte of a file rots: verify finds it, and an import repairs it.
	path := filepath.Join(h.dir, imagesDir, "files", kernel.SHA256)
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, wrong, 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err = h.client.VerifyPlatform(ctx, p.Manifest.Stamp); err != nil || p.Complete || !slices.Equal(p.Missing, []string{kernel.SHA256}) {
		t.Fatalf("verify: %+v %v", p, err)
	}
	if err := h.client.Upload(ctx, kernel, bytes.NewReader(files[kernel.SHA256]), nil); err != nil {
		t.Fatal(err)
	}
	if p, err = h.client.VerifyPlatform(ctx, p.Manifest.Stamp); err != nil || !p.Complete {
		t.Fatalf("verify after the repair: %+v %v", p, err)
	}
}

func TestCollect(t *testing.T) {
	h := startHead(t)
	ctx := context.Background()
	used := h.platform("20261122T101500Z")
	unused := h.platform("20261122T101600Z")
	h.platform("20261122T101700Z") // the newest two stay, used or not
	h.platform("20261122T101800Z")
	out, err := h.client.CollectPlatforms(ctx)
	if err != nil || !slices.Equal(out.Platforms, []string{unused.Manifest.Stamp}) || out.Files != 5 || out.FreedBytes == 0 {
		t.Fatalf("collected %+v %v", out, err)
	}
	_, err = h.client.Platform(ctx, unused.Manifest.Stamp)
	wantCode(t, "collected platform", err, api.CodeNotFound)
	if p, err := h.client.Platform(ctx, used.Manifest.Stamp); err != nil || !p.Complete {
		t.Errorf("the default: %+v %v", p, err)
	}
}

func TestContentRange(t *testing.T) {
	for _, tt := range []struct {
		in             string
		from, to, size int64
		ok             bool
	}{
		{"bytes 0-0/1", 0, 0, 1, true}, {"bytes 5-9/100", 5, 9, 100, true},
		{"", 0, 0, 0, false}, {"bytes 5-4/100", 0, 0, 0, false}, {"bytes 0-100/100", 0, 0, 0, false},
		{"bytes -1-5/9", 0, 0, 0, false}, {"bytes 0-5/*", 0, 0, 0, false}, {"items 0-5/9", 0, 0, 0, false},
	} {
		from, to, size, err := contentRange(tt.in)
		if (err == nil) != tt.ok || (tt.ok && (from != tt.from || to != tt.to || size != tt.size)) {
			t.Errorf("%q: %d %d %d %v", tt.in, from, to, size, err)
		}
	}
}

// TestCollectUnused: unused platforms go without being asked, on every tick.
func TestCollectUnused(t *testing.T) {
	h := startHead(t)
	for _, stamp := range []string{"20261122T101500Z", "20261122T101600Z", "20261122T101700Z", "20261122T101800Z"} {
		h.platform(stamp)
	}
	ctx, cancel := context.WithCancel(t.Context())
	tick, done := make(chan time.Time), make(chan error)
	go func() { done <- h.collectUnused(ctx, tick) }()
	tick <- time.Time{}
	tick <- time.Time{} // taken up once the first was done with
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	_, err := h.client.Platform(t.Context(), "20261122T101600Z")
	wantCode(t, "collected platform", err, api.CodeNotFound)
	if all, err := h.client.Platforms(t.Context()); err != nil || len(all) != 3 {
		t.Errorf("%d platforms left, want 3: %v", len(all), err)
	}
}
