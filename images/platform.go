package images

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"nereid/api"
)

// Names of a platform's manifest and signature in its directory.
const (
	manifestName  = "manifest.json"
	signatureName = "manifest.sig"
)

// ReadPlatform reads a platform directory as the builder leaves it: the manifest,
// its signature, and for each file that it is there with the size the manifest
// says. The signature is carried, not checked; who has the key calls VerifyManifest.
func ReadPlatform(dir string) (api.SignedManifest, api.Manifest, error) {
	var s api.SignedManifest
	var err error
	if s.Manifest, err = readLimited(filepath.Join(dir, manifestName), MaxManifest); err != nil {
		return api.SignedManifest{}, api.Manifest{}, fmt.Errorf("read platform: %w; a platform directory is made by nereid platform build", err)
	}
	if s.Signature, err = readLimited(filepath.Join(dir, signatureName), 4096); err != nil {
		return api.SignedManifest{}, api.Manifest{}, fmt.Errorf("read platform: %w", err)
	}
	m, err := DecodeManifest(s.Manifest)
	if err != nil {
		return api.SignedManifest{}, api.Manifest{}, fmt.Errorf("read platform %s: %w", dir, err)
	}
	for _, f := range m.Files() {
		fi, err := os.Lstat(filepath.Join(dir, f.Name))
		if err != nil {
			return api.SignedManifest{}, api.Manifest{}, fmt.Errorf("read platform: %w", err)
		}
		if !fi.Mode().IsRegular() {
			return api.SignedManifest{}, api.Manifest{}, fmt.Errorf("read platform: %s is not a regular file", filepath.Join(dir, f.Name))
		}
		if fi.Size() != f.Size {
			return api.SignedManifest{}, api.Manifest{}, fmt.Errorf("read platform: %s: %w", filepath.Join(dir, f.Name), &SizeError{Want: f.Size, Got: fi.Size()})
		}
	}
	return s, m, nil
}

// WritePlatform writes manifest.json and manifest.sig into dir, each by rename,
// the manifest last.
func WritePlatform(dir string, s api.SignedManifest) error {
	for _, f := range []struct {
		name string
		data []byte
	}{{signatureName, s.Signature}, {manifestName, s.Manifest}} {
		if err := writeFile(filepath.Join(dir, f.name), f.data, 0o644); err != nil {
			return fmt.Errorf("write platform: %w", err)
		}
	}
	return nil
}

// HashFile describes a file on disk as a manifest does.
func HashFile(path string) (api.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return api.File{}, fmt.Errorf("hash file: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return api.File{}, fmt.Errorf("hash file %s: %w", path, err)
	}
	return api.File{Name: filepath.Base(path), SHA256: hex.EncodeToString(h.Sum(nil)), Size: n}, nil
}

// readLimited reads a file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: more than %d bytes", path, limit)
	}
	return b, nil
}

// writeFile replaces a file by rename, synced.
func writeFile(path string, data []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}
