package agenttest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
)

// tree are the names of a dataset and of all below it.
func (p *pool) tree(root string) (all []string) {
	for name := range p.sets {
		if name == root || strings.HasPrefix(name, root+"/") {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

// at is the place of a snapshot of a dataset among the others; negative: it has none.
func (d *dataset) at(snap string) int {
	return slices.IndexFunc(d.snaps, func(s *snapshot) bool { return s.name == snap })
}

// SnapshotAll implements storage.Moments.
func (w *World) SnapshotAll(ctx context.Context, name, snap string, props map[string]string) error {
	return w.change(ctx, "zfs snapshot -r "+words(props)+name+"@"+snap, func() error {
		p, _, err := w.find(name)
		if err != nil {
			return err
		}
		all := p.tree(name)
		for _, set := range all {
			if p.sets[set].at(snap) >= 0 {
				return fmt.Errorf("cannot create snapshot '%s@%s': dataset already exists: %w", set, snap, fs.ErrExist)
			}
		}
		for _, set := range all {
			w.guid++
			d := p.sets[set]
			d.snaps = append(d.snaps, &snapshot{name: snap, guid: w.guid, props: maps.Clone(props)})
			if err := copyTree(w.back(p, set, snap), w.back(p, set, "")); err != nil {
				return err
			}
		}
		return nil
	})
}

// Hold holds a snapshot of a dataset, or with hold false releases it.
func (w *World) Hold(full string, hold bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, d, at, err := w.findSnap(full)
	if err == nil {
		d.snaps[at].held = hold
	}
	return err
}

// kept says why a snapshot cannot go.
func (w *World) kept(p *pool, full string) error {
	name, snap, _ := strings.Cut(full, "@")
	if d := p.sets[name]; d.snaps[d.at(snap)].held {
		return fmt.Errorf("cannot destroy snapshot %s: it's being held: %w", full, syscall.EBUSY)
	}
	for _, other := range p.sets {
		if other.origin == full {
			return fmt.Errorf("cannot destroy '%s': snapshot has dependent clones: %w", full, syscall.EBUSY)
		}
	}
	return nil
}

// DestroyAll implements storage.Moments.
func (w *World) DestroyAll(ctx context.Context, name, snap string) error {
	return w.change(ctx, "zfs destroy -r "+name+"@"+snap, func() error {
		p, _, err := w.find(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		var all []string
		for _, set := range p.tree(name) {
			if p.sets[set].at(snap) < 0 {
				continue
			}
			if err := w.kept(p, set+"@"+snap); err != nil {
				return err
			}
			all = append(all, set+"@"+snap)
		}
		for _, full := range all {
			if err := w.dropSnap(full); err != nil {
				return err
			}
		}
		return nil
	})
}

// CanRollBack implements storage.Rollbacker.
func (w *World) CanRollBack(ctx context.Context, root, snap string, newer []string) (refused string, err error) {
	err = w.change(ctx, "zfs program check rollback "+root+"@"+snap, func() error {
		refused, err = w.canRollBack(root, snap, newer)
		return err
	})
	return refused, err
}

func (w *World) canRollBack(root, snap string, newer []string) (refused string, err error) {
	p, _, err := w.find(root)
	if err != nil {
		return "", err
	}
	for _, set := range p.tree(root) {
		d := p.sets[set]
		at := d.at(snap)
		if at < 0 && set == root {
			return "there is no snapshot " + root + "@" + snap, nil
		}
		if at < 0 {
			continue
		}
		for _, s := range d.snaps[at+1:] {
			if !slices.Contains(newer, s.name) {
				return "snapshot " + set + "@" + s.name + " is newer, and the request does not name it", nil
			}
			if w.kept(p, set+"@"+s.name) != nil {
				return "the newer snapshot " + set + "@" + s.name + " cannot go: it is held, or something is a clone of it", nil
			}
		}
	}
	return "", nil
}

// RollBack implements storage.Rollbacker.
func (w *World) RollBack(ctx context.Context, root, snap string, newer []string, prop, word string) (refused string, err error) {
	err = w.change(ctx, "zfs program rollback "+root+"@"+snap, func() error {
		if refused, err = w.canRollBack(root, snap, newer); err != nil || refused != "" {
			return err
		}
		p, of, err := w.find(root)
		if err != nil {
			return err
		}
		for _, set := range p.tree(root) {
			d := p.sets[set]
			at := d.at(snap)
			if at < 0 {
				continue
			}
			for _, s := range slices.Clone(d.snaps[at+1:]) {
				if err := w.dropSnap(set + "@" + s.name); err != nil {
					return err
				}
			}
			if err := errors.Join(os.RemoveAll(w.back(p, set, "")), copyTree(w.back(p, set, ""), w.back(p, set, snap))); err != nil {
				return err
			}
		}
		of.props[prop] = strings.TrimSpace(of.props[prop] + " " + word)
		return nil
	})
	return refused, err
}
