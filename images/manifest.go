package images

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"nereid/api"
)

// Limits of a manifest. What is beyond them is refused before it is used.
const (
	MaxManifest = 1 << 20 // bytes of JSON
	maxFile     = 1 << 36 // bytes of one file of a platform
	maxArgs     = 64      // kernel arguments
	maxName     = 128     // bytes of a file name
)

// Sign signs the exact bytes of a manifest. A manifest that VerifyManifest would
// refuse is not signed.
func Sign(manifest []byte, key ed25519.PrivateKey) (api.SignedManifest, error) {
	if len(key) != ed25519.PrivateKeySize {
		return api.SignedManifest{}, fmt.Errorf("sign manifest: private key of %d bytes: want %d", len(key), ed25519.PrivateKeySize)
	}
	if _, err := DecodeManifest(manifest); err != nil {
		return api.SignedManifest{}, fmt.Errorf("sign manifest: %w", err)
	}
	return api.SignedManifest{Manifest: bytes.Clone(manifest), Signature: ed25519.Sign(key, manifest)}, nil
}

// VerifyManifest checks the signature, then decodes and validates the manifest.
// A signature of another key is ErrSignature.
func VerifyManifest(signed api.SignedManifest, key ed25519.PublicKey) (api.Manifest, error) {
	if len(key) != ed25519.PublicKeySize {
		return api.Manifest{}, fmt.Errorf("verify manifest: public key of %d bytes: want %d", len(key), ed25519.PublicKeySize)
	}
	if len(signed.Manifest) > MaxManifest {
		return api.Manifest{}, fmt.Errorf("verify manifest: %d bytes: want at most %d", len(signed.Manifest), MaxManifest)
	}
	if len(signed.Signature) != ed25519.SignatureSize {
		return api.Manifest{}, fmt.Errorf("verify manifest: signature of %d bytes, not %d: %w", len(signed.Signature), ed25519.SignatureSize, ErrSignature)
	}
	if !ed25519.Verify(key, signed.Manifest, signed.Signature) {
		return api.Manifest{}, fmt.Errorf("verify manifest: %w", ErrSignature)
	}
	m, err := DecodeManifest(signed.Manifest)
	if err != nil {
		return api.Manifest{}, fmt.Errorf("verify manifest: %w", err)
	}
	return m, nil
}

// DecodeManifest decodes a manifest strictly and validates it: unknown fields,
// data behind it, file names with a path, and kernel arguments with control
// characters are errors. It knows nothing of signatures.
func DecodeManifest(b []byte) (api.Manifest, error) {
	if len(b) > MaxManifest {
		return api.Manifest{}, fmt.Errorf("decode manifest: %d bytes: want at most %d", len(b), MaxManifest)
	}
	var m api.Manifest
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return api.Manifest{}, fmt.Errorf("decode manifest: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return api.Manifest{}, errors.New("decode manifest: there is data behind it")
	}
	if err := m.Validate(); err != nil {
		return api.Manifest{}, fmt.Errorf("manifest: %w", err)
	}
	if err := checkFiles(m.Files()); err != nil {
		return api.Manifest{}, fmt.Errorf("manifest: %w", err)
	}
	if len(m.Args) > maxArgs {
		return api.Manifest{}, fmt.Errorf("manifest: %d kernel arguments: want at most %d", len(m.Args), maxArgs)
	}
	for _, a := range m.Args {
		if !printable(a) {
			return api.Manifest{}, fmt.Errorf("manifest: kernel argument %.80q: want printable ASCII without spaces", a)
		}
	}
	return m, nil
}

// checkFiles holds what a file's name must be before it becomes part of a path,
// an URL or an iPXE script.
func checkFiles(files []api.File) error {
	seen := make(map[string]bool, len(files))
	for _, f := range files {
		if !fileName(f.Name) {
			return fmt.Errorf("file name %.80q: want letters, digits and . _ - only, at most %d, not starting with a dot", f.Name, maxName)
		}
		if f.Name == manifestName || f.Name == signatureName {
			return fmt.Errorf("file name %q: is taken by the manifest itself", f.Name)
		}
		if seen[f.Name] {
			return fmt.Errorf("file name %q: is used twice", f.Name)
		}
		seen[f.Name] = true
		if f.Size > maxFile {
			return fmt.Errorf("file %q: size %d: want at most %d", f.Name, f.Size, int64(maxFile))
		}
	}
	return nil
}

func fileName(s string) bool {
	return s != "" && len(s) <= maxName && s[0] != '.' && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == '_' || r == '-')
	})
}

func printable(s string) bool {
	return s != "" && len(s) <= 1024 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}
