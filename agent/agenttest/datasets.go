package agenttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	if err == nil && w.Hook != nil {
		err = w.Hook(line, true)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", line, err)
	}
	return nil
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
	if d.volume > 0 {
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
	for _, other := range p.sets {
		if other.origin == full {
			return fmt.Errorf("cannot destroy '%s': snapshot has dependent clones: %w", full, syscall.EBUSY)
		}
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
		if p.sets[name] != nil {
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

// stream is what Send writes: a snapshot's files, and what it is of.
type stream struct {
	Snap   string
	GUID   uint64
	Base   uint64 // GUID of the base; 0: a full stream
	Volume uint64
	Files  map[string]string
}

// Send implements storage.Streams.
func (w *World) Send(ctx context.Context, full, base string, to io.Writer) error {
	return w.change(ctx, strings.TrimSpace("zfs send "+full+" "+base), func() error {
		p, d, at, err := w.findSnap(full)
		if err != nil {
			return err
		}
		name, snap, _ := strings.Cut(full, "@")
		s := stream{Snap: snap, GUID: d.snaps[at].guid, Volume: d.volume, Files: map[string]string{}}
		if base != "" {
			_, bd, bat, err := w.findSnap(base)
			if err != nil {
				return err
			}
			if bd != d || bat >= at {
				return fmt.Errorf("cannot send '%s': '%s' is not an earlier snapshot from the same fs", full, base)
			}
			s.Base = d.snaps[bat].guid
		}
		root := w.back(p, name, snap)
		err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(path)
			s.Files[strings.TrimPrefix(path, root)] = string(b)
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return json.NewEncoder(to).Encode(s)
	})
}

// Receive implements storage.Streams.
func (w *World) Receive(ctx context.Context, name string, from io.Reader, props map[string]string, resumable bool) error {
	line := "zfs receive -u "
	if resumable {
		line += "-s "
	}
	b, err := io.ReadAll(from)
	if err != nil {
		return fmt.Errorf("%s%s: %w", line, name, err)
	}
	return w.change(ctx, line+words(props)+name, func() error {
		var s stream
		if err := json.Unmarshal(b, &s); err != nil {
			return fmt.Errorf("cannot receive: invalid stream: %w", err)
		}
		p, d, err := w.find(name)
		switch {
		case p == nil:
			return err
		case s.Base == 0 && d != nil:
			return fmt.Errorf("cannot receive new filesystem stream: destination '%s' exists: %w", name, fs.ErrExist)
		case s.Base != 0 && (d == nil || len(d.snaps) == 0 || d.snaps[len(d.snaps)-1].guid != s.Base):
			return fmt.Errorf("cannot receive incremental stream: most recent snapshot of %s does not match incremental source", name)
		case s.Base == 0:
			d = &dataset{volume: s.Volume, props: map[string]string{}}
			w.guid++
			d.guid = w.guid
			p.sets[name] = d
		}
		for k, v := range props {
			if v != "" {
				d.props[k] = v
			}
		}
		d.snaps = append(d.snaps, &snapshot{name: s.Snap, guid: s.GUID})
		for _, at := range []string{w.back(p, name, ""), w.back(p, name, s.Snap)} {
			if err := errors.Join(os.RemoveAll(at), os.MkdirAll(at, 0o755)); err != nil {
				return err
			}
			for path, text := range s.Files {
				file := filepath.Join(at, path)
				if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// List implements storage.Lister.
func (w *World) List(ctx context.Context, root string, props ...string) (map[string]map[string]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, "zfs get -r "+strings.Join(props, ",")+" "+root)
	p, _, err := w.find(root)
	if err != nil {
		return nil, err
	}
	all := map[string]map[string]string{}
	add := func(name, kind, origin string, guid uint64) {
		all[name] = map[string]string{}
		for _, k := range props {
			v := w.value(p, name, k)
			switch k {
			case "type":
				v = kind
			case "guid":
				v = fmt.Sprint(guid)
			case "origin":
				v = origin
			}
			if v != "" {
				all[name][k] = v
			}
		}
	}
	for name, d := range p.sets {
		if name != root && !strings.HasPrefix(name, root+"/") {
			continue
		}
		kind := "filesystem"
		if d.volume > 0 {
			kind = "volume"
		}
		add(name, kind, d.origin, d.guid)
		for _, s := range d.snaps {
			add(name+"@"+s.name, "snapshot", "", s.guid)
		}
	}
	return all, nil
}

// value is a property of a dataset or snapshot; those of users are inherited.
func (w *World) value(p *pool, name, prop string) string {
	set, _, snap := strings.Cut(name, "@")
	if !strings.Contains(prop, ":") {
		if snap {
			return ""
		}
		return p.sets[set].props[prop]
	}
	for ; set != "."; set = filepath.Dir(set) {
		if d := p.sets[set]; d != nil && d.props[prop] != "" {
			return d.props[prop]
		}
	}
	return ""
}

// back is the folder with the files of a dataset, or of one of its snapshots.
func (w *World) back(p *pool, set, snap string) string {
	name := strings.ReplaceAll(set, "/", "-")
	if snap != "" {
		name += "@" + snap
	}
	return filepath.Join(w.Root, "pools", fmt.Sprint(p.guid), name)
}

// copyTree copies a folder's files; no folder is an empty one.
func copyTree(to, from string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return os.CopyFS(to, os.DirFS(from))
}
