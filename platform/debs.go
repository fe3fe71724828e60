package platform

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// debs is the cache of package files, by digest.
type debs struct {
	dir  string
	arch archives
	env  []string // apt's configuration, for its proxies and credentials
	now  func() time.Time
}

func (d debs) path(p Package) string { return filepath.Join(d.dir, p.SHA256+".deb") }

// batch is how many files one apt-helper run fetches; it works on several at once.
const batch = 64

// fetch makes every package present; what is fetched is checked against its digest
// before it gets its name.
func (d debs) fetch(ctx context.Context, r *runner, pkgs []Package) error {
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return err
	}
	partial, err := os.MkdirTemp(d.dir, "partial-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(partial)
	var missing []Package
	for _, p := range pkgs {
		fi, err := os.Stat(d.path(p))
		if err == nil && fi.Size() == p.Size {
			if err := touch(d.path(p), d.now()); err != nil {
				return err
			}
			continue
		}
		if d.arch[p.Archive] == "" {
			return fmt.Errorf("fetch %s %s: the machine knows no mirror of %s; add one to its apt sources", p.Name, p.Version, p.Archive)
		}
		missing = append(missing, p)
	}
	helper := &runner{log: r.log, path: r.path, tick: r.tick, env: append(slices.Clone(r.env), d.env...)}
	for chunk := range slices.Chunk(missing, batch) {
		args := []string{"download-file"}
		for _, p := range chunk {
			args = append(args, d.arch[p.Archive]+p.Path, filepath.Join(partial, p.SHA256), "SHA256:"+p.SHA256)
		}
		if err := helper.run(ctx, "/usr/lib/apt/apt-helper", args...); err != nil {
			return fmt.Errorf("fetch packages (a mirror keeps only current versions; older ones need --mirror with a snapshot of the archive): %w", err)
		}
		for _, p := range chunk {
			from := filepath.Join(partial, p.SHA256)
			got, err := hashFile(from)
			if err != nil {
				return fmt.Errorf("fetch %s: %w", p.Name, err)
			}
			if got.SHA256 != p.SHA256 {
				return fmt.Errorf("fetch %s %s: the mirror's file has SHA-256 %s, want %s; it is damaged or forged and was not used", p.Name, p.Version, got.SHA256, p.SHA256)
			}
			if err := os.Rename(from, d.path(p)); err != nil {
				return err
			}
		}
	}
	return nil
}

// repository makes a flat apt repository of exactly these packages in dir. It has
// a Release file, unsigned, as mmdebstrap finds the essential packages by suite.
func (d debs) repository(ctx context.Context, r *runner, suite string, pkgs []Package, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var index strings.Builder
	for _, p := range pkgs {
		name := fmt.Sprintf("%s_%s_%s.deb", p.Name, strings.ReplaceAll(p.Version, ":", "%3a"), p.Arch)
		name = strings.ReplaceAll(name, "%", "_")
		if err := linkOrCopy(d.path(p), filepath.Join(dir, name)); err != nil {
			return err
		}
		control, err := r.output(ctx, "dpkg-deb", "-f", d.path(p))
		if err != nil {
			return fmt.Errorf("read control of %s: %w", p.Name, err)
		}
		fmt.Fprintf(&index, "%s\nFilename: ./%s\nSize: %d\nSHA256: %s\n\n", strings.TrimSpace(control), name, p.Size, p.SHA256)
	}
	if err := os.WriteFile(filepath.Join(dir, "Packages"), []byte(index.String()), 0o644); err != nil {
		return err
	}
	release := fmt.Sprintf("Origin: Nereid\nLabel: Nereid\nSuite: %[1]s\nCodename: %[1]s\nArchitectures: %[2]s\nDate: Thu, 01 Jan 1970 00:00:00 UTC\nSHA256:\n %[3]x %[4]d Packages\n",
		suite, debArch, sha256.Sum256([]byte(index.String())), index.Len())
	return os.WriteFile(filepath.Join(dir, "Release"), []byte(release), 0o644)
}

// epoch returns the time of the newest package, in seconds: the SOURCE_DATE_EPOCH
// that everything made from them carries.
func (d debs) epoch(pkgs []Package) (int64, error) {
	var newest int64
	for _, p := range pkgs {
		t, err := debTime(d.path(p))
		if err != nil {
			return 0, fmt.Errorf("read time of %s: %w", p.Name, err)
		}
		if err := touch(d.path(p), d.now()); err != nil {
			return 0, err
		}
		newest = max(newest, t)
	}
	return newest, nil
}

// debTime reads the time of a package's first ar member: magic (8 bytes), name
// (16), seconds in decimal (12); see deb(5) and ar(5).
func debTime(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var head [36]byte
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return 0, err
	}
	if string(head[:8]) != "!<arch>\n" {
		return 0, errors.New("not a Debian package")
	}
	return strconv.ParseInt(strings.TrimSpace(string(head[24:])), 10, 64)
}

// linkOrCopy makes to the same file as from, or a copy on another file system.
func linkOrCopy(from, to string) error {
	if err := os.Link(from, to); err == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(to)
	}
	return err
}
