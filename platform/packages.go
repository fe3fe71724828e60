package platform

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Package is one Debian package file.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`
	SHA256  string `json:"sha256"`
	Size    int64  `json:"size"`
	Archive string `json:"archive"` // debian or debian-security
	Path    string `json:"path"`    // below the archive's base URL, as pool/main/...
}

// StagePackages are the packages of one stage.
type StagePackages struct {
	Stage    string    `json:"stage"`
	Packages []Package `json:"packages"`
}

// PackageList is packages.json: every package a platform was built from, enough
// to build it again.
type PackageList struct {
	Suite   string          `json:"suite"`
	Arch    string          `json:"arch"`
	Flavour string          `json:"flavour"`
	Kernel  string          `json:"kernel"` // release, as uname -r prints it
	Stages  []StagePackages `json:"stages"`
}

// maxList bounds packages.json; a platform has about 400 packages of 300 bytes.
const maxList = 8 << 20

var (
	packageNameRE    = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{1,120}$`) // Debian Policy 5.6.1
	packageVersionRE = regexp.MustCompile(`^[0-9A-Za-z.+~:-]{1,200}$`)    // Debian Policy 5.6.12
	sha256RE         = regexp.MustCompile(`^[0-9a-f]{64}$`)
	kernelRE         = regexp.MustCompile(`^[0-9][0-9A-Za-z.+~-]{1,100}$`)
)

// ParsePackageList reads packages.json.
func ParsePackageList(r io.Reader) (PackageList, error) {
	var l PackageList
	b, err := io.ReadAll(io.LimitReader(r, maxList+1))
	if err != nil {
		return l, fmt.Errorf("read package list: %w", err)
	}
	if len(b) > maxList {
		return l, fmt.Errorf("read package list: more than %d bytes", maxList)
	}
	if err := json.Unmarshal(b, &l); err != nil {
		return l, fmt.Errorf("read package list: %w", err)
	}
	return l, l.validate()
}

// readPackageList reads packages.json from a file.
func readPackageList(name string) (PackageList, error) {
	f, err := os.Open(name)
	if err != nil {
		return PackageList{}, fmt.Errorf("read package list: %w", err)
	}
	defer f.Close()
	return ParsePackageList(f)
}

func (l PackageList) validate() error {
	switch {
	case !suiteRE.MatchString(l.Suite):
		return fmt.Errorf("package list: suite %q is not the name of a suite", l.Suite)
	case l.Arch != debArch:
		return fmt.Errorf("package list: architecture %q: want %s", l.Arch, debArch)
	case l.Flavour != FlavourGeneric && l.Flavour != FlavourCloud:
		return fmt.Errorf("package list: unknown kernel flavour %q", l.Flavour)
	case !kernelRE.MatchString(l.Kernel):
		return fmt.Errorf("package list: kernel release %q", l.Kernel)
	}
	seen := map[string]bool{}
	for _, s := range l.Stages {
		if seen[s.Stage] {
			return fmt.Errorf("package list: stage %q is there twice", s.Stage)
		}
		seen[s.Stage] = true
		names := map[string]bool{}
		for _, p := range s.Packages {
			if err := p.validate(); err != nil {
				return fmt.Errorf("package list: stage %s: %w", s.Stage, err)
			}
			if names[p.Name] {
				return fmt.Errorf("package list: stage %s: package %s is there twice", s.Stage, p.Name)
			}
			names[p.Name] = true
		}
	}
	return nil
}

func (p Package) validate() error {
	switch {
	case !packageNameRE.MatchString(p.Name):
		return fmt.Errorf("package name %q", p.Name)
	case !packageVersionRE.MatchString(p.Version):
		return fmt.Errorf("package %s: version %q", p.Name, p.Version)
	case p.Arch != debArch && p.Arch != "all":
		return fmt.Errorf("package %s: architecture %q: want %s or all", p.Name, p.Arch, debArch)
	case !sha256RE.MatchString(p.SHA256):
		return fmt.Errorf("package %s: sha256 %q: want 64 lower-case hexadecimal digits", p.Name, p.SHA256)
	case p.Size <= 0:
		return fmt.Errorf("package %s: size %d", p.Name, p.Size)
	case p.Archive != archiveMain && p.Archive != archiveSecurity:
		return fmt.Errorf("package %s: archive %q: want %s or %s", p.Name, p.Archive, archiveMain, archiveSecurity)
	case !strings.HasPrefix(p.Path, "pool/") || path.Clean(p.Path) != p.Path || strings.ContainsAny(p.Path, " \t\r\n?#'\""):
		return fmt.Errorf("package %s: path %q: want a clean path below pool/", p.Name, p.Path)
	}
	return nil
}

// stage returns the packages of one stage, in a fixed order.
func (l PackageList) stage(name string) ([]Package, error) {
	for _, s := range l.Stages {
		if s.Stage == name && len(s.Packages) > 0 {
			return s.Packages, nil
		}
	}
	return nil, fmt.Errorf("package list: it has no packages for %s; it comes from a build without that layer", name)
}

// digests lists packages as stage inputs.
func digests(pkgs []Package) []string {
	lines := make([]string, 0, len(pkgs))
	for _, p := range pkgs {
		lines = append(lines, p.Name+" "+p.Version+" "+p.SHA256)
	}
	slices.Sort(lines)
	return lines
}

// find returns the package of that name.
func find(pkgs []Package, name string) (Package, error) {
	for _, p := range pkgs {
		if p.Name == name {
			return p, nil
		}
	}
	return Package{}, fmt.Errorf("find package %s: %w", name, errNoPackage)
}

var errNoPackage = errors.New("not among the chosen packages")
