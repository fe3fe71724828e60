package images

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nereid/api"
)

func testKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func testManifest() api.Manifest {
	file := func(name string, n int) api.File {
		return api.File{Name: name, SHA256: digestOf(pattern(n)), Size: int64(n)}
	}
	return api.Manifest{
		Stamp: "20261122T101500Z", Arch: "x86_64",
		Kernel: file("vmlinuz", 11), Initrd: file("initrd.img", 12), Packages: file("packages.json", 13),
		Layers:        []api.File{file("base.squashfs", 14), file("kernel.squashfs", 15), file("nereid.squashfs", 16)},
		Args:          []string{"quiet", "systemd.show_status=0"},
		KernelVersion: "6.12.107+deb13-amd64", ZFSVersion: "2.3.9", AgentVersion: "0.1", Suite: "trixie",
	}
}

func encode(t testing.TB, m api.Manifest) []byte {
	t.Helper()
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSignVerify(t *testing.T) {
	key := testKey(1)
	s, err := Sign(encode(t, testManifest()), key)
	if err != nil {
		t.Fatal(err)
	}
	m, err := VerifyManifest(s, PublicKey(key))
	if err != nil || m.Stamp != "20261122T101500Z" || len(m.Layers) != 3 {
		t.Fatalf("verify: %+v, %v", m, err)
	}
	if _, err := VerifyManifest(s, PublicKey(testKey(2))); !errors.Is(err, ErrSignature) {
		t.Errorf("other key: %v", err)
	}
	for i := range s.Manifest {
		bad := api.SignedManifest{Manifest: bytes.Clone(s.Manifest), Signature: s.Signature}
		bad.Manifest[i] ^= 0x20
		if _, err := VerifyManifest(bad, PublicKey(key)); !errors.Is(err, ErrSignature) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
	short := api.SignedManifest{Manifest: s.Manifest, Signature: s.Signature[:63]}
	if _, err := VerifyManifest(short, PublicKey(key)); !errors.Is(err, ErrSignature) {
		t.Errorf("short signature: %v", err)
	}
	if _, err := VerifyManifest(s, PublicKey(key)[:31]); err == nil {
		t.Error("a short public key was accepted")
	}
}

func TestDecodeManifestRefuses(t *testing.T) {
	change := func(f func(*api.Manifest)) []byte {
		m := testManifest()
		f(&m)
		return encode(t, m)
	}
	good := string(encode(t, testManifest()))
	for _, tt := range []struct {
		name, want string
		data       []byte
	}{
		{"empty", "EOF", nil},
		{"not JSON", "invalid character", []byte("squashfs")},
		{"unknown field", "unknown field", []byte(strings.Replace(good, `"stamp"`, `"stomp": 1, "stamp"`, 1))},
		{"data behind", "behind", []byte(good + "{}")},
		{"too long", "at most", []byte(good + strings.Repeat(" ", MaxManifest))},
		{"stamp", "stamp", change(func(m *api.Manifest) { m.Stamp = "../../x" })},
		{"no layers", "0 layers", change(func(m *api.Manifest) { m.Layers = nil })},
		{"path in name", "file name", change(func(m *api.Manifest) { m.Layers[0].Name = "../base" })},
		{"absolute name", "file name", change(func(m *api.Manifest) { m.Layers[0].Name = "/etc/passwd" })},
		{"dot name", "file name", change(func(m *api.Manifest) { m.Layers[0].Name = ".." })},
		{"space in name", "file name", change(func(m *api.Manifest) { m.Kernel.Name = "vm linuz" })},
		{"manifest's own name", "taken", change(func(m *api.Manifest) { m.Kernel.Name = "manifest.json" })},
		{"name twice", "twice", change(func(m *api.Manifest) { m.Layers[1].Name = m.Layers[0].Name })},
		{"huge", "at most", change(func(m *api.Manifest) { m.Layers[1].Size = 1 << 60 })},
		{"digest", "sha256", change(func(m *api.Manifest) { m.Initrd.SHA256 = "00" })},
		{"newline in argument", "kernel argument", change(func(m *api.Manifest) { m.Args = []string{"a\nboot http://evil"} })},
		{"space in argument", "kernel argument", change(func(m *api.Manifest) { m.Args = []string{"a init=/bin/sh"} })},
	} {
		if _, err := DecodeManifest(tt.data); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q in it", tt.name, err, tt.want)
		}
		if _, err := Sign(tt.data, testKey(1)); err == nil {
			t.Errorf("%s: was signed", tt.name)
		}
	}
}

func FuzzVerifyManifest(f *testing.F) {
	good := encode(f, testManifest())
	f.Add(good, []byte(nil))
	f.Add([]byte(`{"layers":[{}]}`), bytes.Repeat([]byte{1}, 64))
	f.Add([]byte(`{"stamp":"20261122T101500Z","arch":"x86_64"}`), []byte{})
	key := testKey(3)
	f.Fuzz(func(t *testing.T, manifest, sig []byte) {
		if _, err := VerifyManifest(api.SignedManifest{Manifest: manifest, Signature: sig}, PublicKey(key)); err == nil {
			t.Fatal("a made-up signature was accepted")
		}
		m, err := VerifyManifest(api.SignedManifest{Manifest: manifest, Signature: ed25519.Sign(key, manifest)}, PublicKey(key))
		if err != nil {
			return
		}
		for _, file := range m.Files() {
			if filepath.Base(file.Name) != file.Name || file.Size <= 0 || CheckDigest(file.SHA256) != nil {
				t.Fatalf("accepted file %+v", file)
			}
		}
		if strings.ContainsAny(strings.Join(m.Args, ""), " \n\r\t") {
			t.Fatalf("accepted arguments %q", m.Args)
		}
	})
}

func TestKeyFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "platform.key")
	key, err := CreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v %v", fi.Mode(), err)
	}
	if _, err := CreateKey(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create again: %v", err)
	}
	back, err := ReadKey(path)
	if err != nil || !back.Equal(key) {
		t.Fatalf("read: %v", err)
	}
	pub, err := ParsePublicKey(FormatPublicKey(PublicKey(key)) + "\n")
	if err != nil || !pub.Equal(key.Public()) {
		t.Errorf("public key: %v", err)
	}
	for _, s := range []string{"", "x", "AAAA"} {
		if _, err := ParsePublicKey(s); err == nil {
			t.Errorf("public key %q accepted", s)
		}
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKey(path); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "chmod 0600") {
		t.Errorf("readable by others: %v", err)
	}
	bad := filepath.Join(t.TempDir(), "bad.key")
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range [][]byte{nil, []byte("hello"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1, 2}})} {
		if err := os.WriteFile(bad, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKey(bad); err == nil {
			t.Errorf("key file %q accepted", data)
		}
	}
}

func TestReadPlatform(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := ReadPlatform(dir); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "platform build") {
		t.Errorf("empty directory: %v", err)
	}
	m := testManifest()
	for i, f := range m.Files() {
		path := filepath.Join(dir, f.Name)
		if err := os.WriteFile(path, pattern(int(f.Size)), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := HashFile(path); err != nil || got != f {
			t.Errorf("file %d: %+v, %v; want %+v", i, got, err, f)
		}
	}
	s, err := Sign(encode(t, m), testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := WritePlatform(dir, s); err != nil {
			t.Fatal(err)
		}
	}
	got, gm, err := ReadPlatform(dir)
	if err != nil || !bytes.Equal(got.Manifest, s.Manifest) || !bytes.Equal(got.Signature, s.Signature) || gm.Stamp != m.Stamp {
		t.Fatalf("read: %v", err)
	}
	if err := os.Truncate(filepath.Join(dir, "base.squashfs"), 3); err != nil {
		t.Fatal(err)
	}
	var size *SizeError
	if _, _, err := ReadPlatform(dir); !errors.As(err, &size) || size.Got != 3 {
		t.Errorf("truncated layer: %v", err)
	}
	if err := errors.Join(os.Remove(filepath.Join(dir, "base.squashfs")), os.Symlink("/etc/passwd", filepath.Join(dir, "base.squashfs"))); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ReadPlatform(dir); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("link as layer: %v", err)
	}
}
