package platform

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// base makes the Debian layer.
func (b *build) base(ctx context.Context) (made, error) {
	pkgs := b.pkgs["base"]
	inputs := append([]string{"recipe 1", "roots " + strings.Join(baseRoots, " ")}, digests(pkgs)...)
	inputs = append(inputs, rootRecipe()...)
	inputs = append(inputs, squashOptions...)
	st := stage{
		name: "base", what: fmt.Sprintf("base.squashfs: Debian %s, %d packages", b.Suite, len(pkgs)),
		inputs: inputs, packages: pkgs,
	}
	st.run = func(ctx context.Context, r *runner, scratch, out string) error {
		if err := b.debs.fetch(ctx, r, pkgs); err != nil {
			return err
		}
		root := filepath.Join(scratch, "root")
		if err := b.debs.bootstrap(ctx, r, b.Suite, scratch, root, pkgs, baseRoots, excludes); err != nil {
			return err
		}
		if err := furnish(root); err != nil {
			return fmt.Errorf("furnish root filesystem: %w", err)
		}
		epoch, err := b.debs.epoch(pkgs)
		if err != nil {
			return err
		}
		if err := squash(ctx, r, root, filepath.Join(out, "base.squashfs"), epoch); err != nil {
			return err
		}
		release, err := os.ReadFile(filepath.Join(root, "usr/lib/os-release"))
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(out, "os-release"), release, 0o644)
	}
	return b.stages.do(ctx, st)
}

// rootRecipe lists everything furnish and bootstrap do to a root, as stage inputs.
func rootRecipe() []string {
	recipe := []string{
		"excludes " + strings.Join(excludes, " "), "removed " + strings.Join(removed, " "),
		"masked " + strings.Join(maskedUnits, " "), "generators " + strings.Join(maskedGenerators, " "),
		"enabled " + strings.Join(enabledUnits, " "),
	}
	for _, f := range rootFiles {
		recipe = append(recipe, "file "+f.path+"\n"+f.link+"\n"+f.text)
	}
	return recipe
}

// furnish turns a fresh Debian root into a node's: caches, secrets and logs gone,
// our files in, units masked. It can be run again on its own result.
func furnish(root string) error {
	if err := clean(root); err != nil {
		return err
	}
	for _, f := range rootFiles {
		if err := putFile(root, f); err != nil {
			return err
		}
	}
	for _, u := range maskedUnits {
		if err := putFile(root, rootFile{path: "etc/systemd/system/" + u, link: "/dev/null"}); err != nil {
			return err
		}
	}
	for _, g := range maskedGenerators {
		if err := putFile(root, rootFile{path: "etc/systemd/system-generators/" + g, link: "/dev/null"}); err != nil {
			return err
		}
	}
	for _, u := range enabledUnits {
		if err := putFile(root, rootFile{path: "etc/systemd/system/multi-user.target.wants/" + filepath.Base(u), link: u}); err != nil {
			return err
		}
	}
	return lockRoot(filepath.Join(root, "etc/shadow"))
}

// clean removes what must not be in an image, and every byte-compiled Python file:
// they carry times, and the interpreter does without.
func clean(root string) error { return cleanPaths(root, removed) }

// cleanPaths is clean for other paths.
func cleanPaths(root string, removed []string) error {
	for _, pattern := range removed {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return err
		}
		for _, p := range found {
			switch filepath.Base(p) {
			case ".", "..":
				continue
			}
			if err := os.RemoveAll(p); err != nil {
				return err
			}
		}
	}
	var pyc []string
	err := filepath.WalkDir(filepath.Join(root, "usr"), func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && e.Name() == "__pycache__" {
			pyc = append(pyc, p)
			return filepath.SkipDir
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, p := range pyc {
		if err := os.RemoveAll(p); err != nil {
			return err
		}
	}
	return nil
}

// putFile writes one file or link, replacing what is there.
func putFile(root string, f rootFile) error {
	p := filepath.Join(root, f.path)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(p); err != nil {
		return err
	}
	if f.link != "" {
		return os.Symlink(f.link, p)
	}
	return os.WriteFile(p, []byte(f.text), 0o644)
}

// lockRoot refuses a root filesystem in which any account has a password.
func lockRoot(shadow string) error {
	b, err := os.ReadFile(shadow)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 2 || strings.HasPrefix(f[1], "*") || strings.HasPrefix(f[1], "!") {
			continue
		}
		return fmt.Errorf("account %s has a password or needs none; a platform has no passwords", f[0])
	}
	return nil
}
