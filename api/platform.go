package api

import (
	"fmt"
	"regexp"
	"time"
)

// File is immutable bytes, named by digest.
type File struct {
	Name   string `json:"name" doc:"file name, for people"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

// Manifest describes a platform image. It is signed as the exact bytes it was
// written in; what boots is what was signed.
type Manifest struct {
	Stamp  string   `json:"stamp" doc:"name of the platform, as 20261122T101500Z"`
	Arch   string   `json:"arch" enum:"x86_64"`
	Kernel File     `json:"kernel"`
	Initrd File     `json:"initrd"`
	Layers []File   `json:"layers" doc:"squashfs images stacked into the root filesystem, lowest first"`
	Args   []string `json:"args,omitempty" doc:"kernel arguments every boot of this platform gets"`

	KernelVersion string            `json:"kernel_version"`
	ZFSVersion    string            `json:"zfs_version"`
	AgentVersion  string            `json:"agent_version"`
	Suite         string            `json:"suite" doc:"Debian suite of the base"`
	Packages      File              `json:"packages" doc:"list of package versions and digests the build used; enough to build it again"`
	Inputs        map[string]string `json:"inputs,omitempty" doc:"digest of each build stage's inputs"`
}

var (
	stampRE  = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}Z$`)
	digestRE = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Files lists every file a platform consists of.
func (m Manifest) Files() []File {
	return append([]File{m.Kernel, m.Initrd, m.Packages}, m.Layers...)
}

// Validate reports the first thing wrong with the manifest.
func (m Manifest) Validate() error {
	if !stampRE.MatchString(m.Stamp) {
		return fmt.Errorf("stamp %q: want YYYYMMDDTHHMMSSZ", m.Stamp)
	}
	if m.Arch != "x86_64" {
		return fmt.Errorf("arch %q: want x86_64", m.Arch)
	}
	if len(m.Layers) == 0 || len(m.Layers) > 16 {
		return fmt.Errorf("%d layers: want 1 to 16", len(m.Layers))
	}
	for _, f := range m.Files() {
		if !digestRE.MatchString(f.SHA256) {
			return fmt.Errorf("file %q: sha256 %q: want 64 lower-case hexadecimal digits", f.Name, f.SHA256)
		}
		if f.Size <= 0 {
			return fmt.Errorf("file %q: size %d: want more than 0", f.Name, f.Size)
		}
	}
	return nil
}

// SignedManifest is a manifest as it travels: exact bytes and their signature.
type SignedManifest struct {
	Manifest  []byte `json:"manifest" doc:"JSON of a Manifest, base64"`
	Signature []byte `json:"signature" doc:"ed25519 over Manifest, base64"`
}

// Platform is a platform image the head node has.
type Platform struct {
	Manifest  Manifest  `json:"manifest"`
	Imported  time.Time `json:"imported"`
	Complete  bool      `json:"complete" doc:"every file is there and verified"`
	Missing   []string  `json:"missing,omitempty" doc:"digests still to be uploaded"`
	Default   bool      `json:"default"`
	UsedBy    []string  `json:"used_by,omitempty" doc:"servers that run it, are assigned it or may fall back to it"`
	SizeBytes int64     `json:"size_bytes"`
}

// PlatformKey is a public key whose signature on a manifest the head node
// accepts.
type PlatformKey struct {
	Name string `json:"name" minLength:"1" maxLength:"64"`
	Key  string `json:"key" doc:"ed25519 public key, base64"`
}

// Collected says what a collection of unused platforms removed.
type Collected struct {
	Platforms  []string `json:"platforms" doc:"stamps deleted"`
	Files      int      `json:"files" doc:"files deleted, of these and of broken imports"`
	FreedBytes int64    `json:"freed_bytes"`
}
