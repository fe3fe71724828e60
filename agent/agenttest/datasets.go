package agenttest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// change does something that is written as a command line, with Hook around it.
func (w *World) change(ctx context.Context, line string, do func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, line)
	if w.Hook != nil {
		if err := w.Hook(line, false); err != nil {
			return err
		}
	}
	err := do()
	if err == nil {
		w.synced() // a command ends with a transaction group
	}
	if err == nil && w.Hook != nil {
		err = w.Hook(line, true)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", line, err)
	}
	return nil
}

// synced notes that all that was written is on the disks.
func (w *World) synced() {
	for _, p := range w.pools {
		for _, d := range p.sets {
			d.dirty = false
		}
	}
}

// find finds a dataset and its pool.
func (w *World) find(name string) (*pool, *dataset, error) {
	root, _, _ := strings.Cut(name, "/")
	p := w.imported(root)
	if p == nil {
		return nil, nil, fmt.Errorf("cannot open '%s': no such pool: %w", name, fs.ErrNotExist)
	}
	if d := p.sets[name]; d != nil {
		return p, d, nil
	}
	return p, nil, fmt.Errorf("cannot open '%s': dataset does not exist: %w", name, fs.ErrNotExist)
}

// findSnap finds a snapshot by its whole name, and its place among the others.
func (w *World) findSnap(full string) (p *pool, d *dataset, at int, err error) {
	name, snap, _ := strings.Cut(full, "@")
	if p, d, err = w.find(name); err != nil {
		return nil, nil, 0, err
	}
	if at = slices.IndexFunc(d.snaps, func(s *snapshot) bool { return s.name == snap }); at < 0 {
		return nil, nil, 0, fmt.Errorf("could not find any snapshots to destroy; '%s' does not exist: %w", full, fs.ErrNotExist)
	}
	return p, d, at, nil
}

// add makes a dataset and mounts it, when it is a file system.
func (w *World) add(name string, d *dataset) error {
	p, old, err := w.find(name)
	if p == nil {
		return err
	}
	if old != nil {
		return fmt.Errorf("cannot create '%s': dataset already exists: %w", name, fs.ErrExist)
	}
	if p.sets[filepath.Dir(name)] == nil {
		return fmt.Errorf("cannot create '%s': parent does not exist: %w", name, fs.ErrNotExist)
	}
	w.guid++
	d.guid = w.guid
	p.sets[name] = d
	if d.volume > 0 || d.props["mountpoint"] == "legacy" {
		return nil
	}
	return w.mount(p, name)
}

// parents makes what is missing above a dataset.
func (w *World) parents(name string) error {
	dir := filepath.Dir(name)
	if _, d, _ := w.find(dir); d != nil || dir == "." {
		return nil
	}
	return errors.Join(w.parents(dir), w.add(dir, &dataset{props: map[string]string{}}))
}

func words(props map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(props)) {
		fmt.Fprintf(&b, "-o %s=%s ", k, props[k])
	}
	return b.String()
}

// Create implements storage.Datasets.
func (w *World) Create(ctx context.Context, name string, props map[string]string) error {
	return w.change(ctx, "zfs create "+words(props)+name, func() error {
		return w.add(name, &dataset{props: maps.Collect(maps.All(props))})
	})
}

// CreateVolume implements storage.Datasets.
func (w *World) CreateVolume(ctx context.Context, name string, bytes uint64, props map[string]string) error {
	return w.change(ctx, fmt.Sprintf("zfs create -p -V %d %s%s", bytes, words(props), name), func() error {
		if _, d, _ := w.find(name); d != nil {
			return nil
		}
		if bytes == 0 || bytes%512 != 0 {
			return fmt.Errorf("cannot create '%s': volume size must be a multiple of volume block size", name)
		}
		return errors.Join(w.parents(name), w.add(name, &dataset{volume: bytes, props: maps.Collect(maps.All(props))}))
	})
}

// Set implements storage.Datasets.
func (w *World) Set(ctx context.Context, name string, props map[string]string) error {
	for _, k := range slices.Sorted(maps.Keys(props)) {
		err := w.change(ctx, "zfs set "+k+"="+props[k]+" "+name, func() error {
			_, d, err := w.find(name)
			if err == nil && k == "volsize" {
				return w.resize(name, d, props[k])
			}
			if err == nil {
				d.props[k] = props[k]
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Rename implements storage.Datasets.
func (w *World) Rename(ctx context.Context, from, to string) error {
	return w.change(ctx, "zfs rename "+from+" "+to, func() error {
		if strings.Contains(from, "@") {
			return w.renameSnap(from, to)
		}
		p, _, err := w.find(from)
		if err != nil {
			return err
		}
		if p.sets[to] != nil {
			return fmt.Errorf("cannot rename to '%s': dataset already exists: %w", to, fs.ErrExist)
		}
		for _, name := range slices.Sorted(maps.Keys(p.sets)) {
			d := p.sets[name]
			if d.origin == from || strings.HasPrefix(d.origin, from+"@") {
				d.origin = to + strings.TrimPrefix(d.origin, from)
			}
			if name != from && !strings.HasPrefix(name, from+"/") {
				continue
			}
			now := to + strings.TrimPrefix(name, from)
			for _, s := range append([]*snapshot{{}}, d.snaps...) {
				if err := os.Rename(w.back(p, name, s.name), w.back(p, now, s.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
			if d.mounted {
				os.Remove(w.mountpoint(p, name))
			}
			delete(p.sets, name)
			p.sets[now] = d
			if d.mounted {
				if err := w.mount(p, now); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (w *World) renameSnap(from, to string) error {
	p, d, at, err := w.findSnap(from)
	if err != nil {
		return err
	}
	set, snap, _ := strings.Cut(to, "@")
	if _, _, _, err := w.findSnap(to); err == nil {
		return fmt.Errorf("cannot rename to '%s': dataset already exists: %w", to, fs.ErrExist)
	}
	old := d.snaps[at].name
	d.snaps[at].name = snap
	return os.Rename(w.back(p, set, old), w.back(p, set, snap))
}

// Destroy implements storage.Datasets.
func (w *World) Destroy(ctx context.Context, name string) error {
	return w.change(ctx, "zfs destroy "+name, func() error {
		if strings.Contains(name, "@") {
			return w.dropSnap(name)
		}
		p, d, err := w.find(name)
		if err != nil {
			return err
		}
		for other := range p.sets {
			if strings.HasPrefix(other, name+"/") {
				return fmt.Errorf("cannot destroy '%s': filesystem has children: %w", name, syscall.EBUSY)
			}
		}
		if len(d.snaps) > 0 {
			return fmt.Errorf("cannot destroy '%s': filesystem has children: %w", name, syscall.EBUSY)
		}
		if d.mounted {
			os.Remove(w.mountpoint(p, name))
		}
		delete(p.sets, name)
		return os.RemoveAll(w.back(p, name, ""))
	})
}

func (w *World) dropSnap(full string) error {
	p, d, at, err := w.findSnap(full)
	if err != nil {
		return err
	}
	if err := w.kept(p, full); err != nil {
		return err
	}
	name, snap, _ := strings.Cut(full, "@")
	d.snaps = slices.Delete(d.snaps, at, at+1)
	return os.RemoveAll(w.back(p, name, snap))
}

// Snapshot implements storage.Snapshots.
func (w *World) Snapshot(ctx context.Context, name, snap string, recursive bool) error {
	line := "zfs snapshot "
	if recursive {
		line += "-r "
	}
	return w.change(ctx, line+name+"@"+snap, func() error {
		p, _, err := w.find(name)
		if err != nil {
			return err
		}
		var all []string
		for other, d := range p.sets {
			if other != name && (!recursive || !strings.HasPrefix(other, name+"/")) {
				continue
			}
			if slices.ContainsFunc(d.snaps, func(s *snapshot) bool { return s.name == snap }) {
				return fmt.Errorf("cannot create snapshot '%s@%s': dataset already exists: %w", other, snap, fs.ErrExist)
			}
			all = append(all, other)
		}
		for _, other := range all {
			w.guid++
			d := p.sets[other]
			d.snaps = append(d.snaps, &snapshot{name: snap, guid: w.guid})
			if err := copyTree(w.back(p, other, snap), w.back(p, other, "")); err != nil {
				return err
			}
		}
		return nil
	})
}

// Clone implements storage.Snapshots.
func (w *World) Clone(ctx context.Context, full, name string, props map[string]string) error {
	return w.change(ctx, "zfs clone -p "+words(props)+full+" "+name, func() error {
		p, d, _, err := w.findSnap(full)
		if err != nil {
			return err
		}
		if old := p.sets[name]; old != nil {
			if old.origin != full {
				return fmt.Errorf("'%s' is there and is no clone of '%s': %w", name, full, fs.ErrExist)
			}
			if old.props["mountpoint"] != props["mountpoint"] {
				maps.Copy(old.props, props)
			}
			return nil
		}
		from, snap, _ := strings.Cut(full, "@")
		err = errors.Join(w.parents(name), w.add(name, &dataset{volume: d.volume, origin: full, props: maps.Collect(maps.All(props))}))
		if err != nil {
			return err
		}
		return copyTree(w.back(p, name, ""), w.back(p, from, snap))
	})
}

// Rollback implements storage.Snapshots.
func (w *World) Rollback(ctx context.Context, full string, newer bool) error {
	line := "zfs rollback "
	if newer {
		line += "-r "
	}
	return w.change(ctx, line+full, func() error {
		p, d, at, err := w.findSnap(full)
		if err != nil {
			return err
		}
		name, snap, _ := strings.Cut(full, "@")
		if at < len(d.snaps)-1 && !newer {
			return fmt.Errorf("cannot rollback to '%s': more recent snapshots or bookmarks exist: %w", full, syscall.EBUSY)
		}
		for _, s := range slices.Clone(d.snaps[at+1:]) {
			if err := w.dropSnap(name + "@" + s.name); err != nil {
				return err
			}
		}
		return errors.Join(os.RemoveAll(w.back(p, name, "")), copyTree(w.back(p, name, ""), w.back(p, name, snap)))
	})
}

// DestroySnapshots implements storage.Snapshots.
func (w *World) DestroySnapshots(ctx context.Context, name string, snaps ...string) error {
	return w.change(ctx, "zfs destroy "+name+"@"+strings.Join(snaps, ","), func() error {
		for _, s := range snaps {
			if err := w.dropSnap(name + "@" + s); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	})
}

// back is the folder with the files of a dataset, or of one of its snapshots.
func (w *World) back(p *pool, set, snap string) string {
	name := strings.ReplaceAll(set, "/", "-")
	if snap != "" {
		name += "@" + snap
	}
	return filepath.Join(w.Root, "pools", fmt.Sprint(p.guid), name)
}

// copyTree copies a folder's files, with their modes; no folder is an empty one.
func copyTree(to, from string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return err
	}
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return os.Chmod(filepath.Join(to, strings.TrimPrefix(path, from)), info.Mode())
	})
}
