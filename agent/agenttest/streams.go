package agenttest

import (
	"bytes"
	"context"
	"encoding/binary"
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

// stream is what Send writes: a snapshot's files, and what it is of.
type stream struct {
	Snap   string
	GUID   uint64
	Base   uint64 // GUID of the base; 0: a full stream
	Volume uint64
	Files  map[string]string
}

// streamHeader is the length of a stream's first record (dmu_replay_record in
// include/sys/zfs_ioctl.h).
const streamHeader = 312

// header is the first record of a stream, as ZFS writes it.
func (s stream) header() []byte {
	b := make([]byte, streamHeader)
	kind := uint32(2) // DMU_OST_ZFS
	if s.Volume > 0 {
		kind++
	}
	binary.LittleEndian.PutUint64(b[8:], 0x2F5bacbac)
	binary.LittleEndian.PutUint64(b[16:], 1) // DMU_SUBSTREAM
	binary.LittleEndian.PutUint32(b[32:], kind)
	binary.LittleEndian.PutUint64(b[40:], s.GUID)
	binary.LittleEndian.PutUint64(b[48:], s.Base)
	copy(b[56:], s.Snap)
	return b
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
		if _, err := to.Write(s.header()); err != nil {
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
	var s stream
	head := make([]byte, streamHeader)
	_, err := io.ReadFull(from, head)
	if err == nil {
		err = json.NewDecoder(io.MultiReader(from)).Decode(&s)
	}
	if err == nil && !bytes.Equal(head, s.header()) {
		err = errors.New("bad magic number")
	}
	if err == nil && w.Full {
		err = syscall.ENOSPC
	}
	if err != nil {
		return fmt.Errorf("%s%s: cannot receive: invalid stream: %w", line, name, err)
	}
	line += words(props) + name
	name, snap, named := strings.Cut(name, "@")
	if named {
		s.Snap = snap
	}
	return w.change(ctx, line, func() error {
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
	add := func(name, kind, origin string, guid, size uint64) {
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
			case "used":
				v = fmt.Sprint(w.used(p, name))
			case "volsize":
				if v = ""; size > 0 {
					v = fmt.Sprint(size)
				}
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
		add(name, kind, d.origin, d.guid, d.volume)
		for _, s := range d.snaps {
			add(name+"@"+s.name, "snapshot", "", s.guid, d.volume)
		}
	}
	return all, nil
}

// value is a property of a dataset. Those of users that a snapshot or child inherits are
// not its own.
func (w *World) value(p *pool, name, prop string) string {
	set, _, snap := strings.Cut(name, "@")
	if !snap {
		return p.sets[set].props[prop]
	}
	d := p.sets[set]
	s := d.snaps[d.at(strings.TrimPrefix(name, set+"@"))]
	switch prop {
	case "createtxg":
		return fmt.Sprint(s.guid)
	case "creation":
		return fmt.Sprint(1e9 + s.guid)
	case "userrefs":
		return map[bool]string{true: "1", false: "0"}[s.held]
	case "clones":
		var all []string
		for other, d := range p.sets {
			if d.origin == name {
				all = append(all, other)
			}
		}
		slices.Sort(all)
		return strings.Join(all, ",")
	}
	return s.props[prop]
}

// used is the bytes of the files of a dataset and its snapshots.
func (w *World) used(p *pool, name string) (n int64) {
	set, snap, one := strings.Cut(name, "@")
	dirs := []string{w.back(p, set, snap)}
	if !one {
		for _, s := range p.sets[set].snaps {
			dirs = append(dirs, w.back(p, set, s.name))
		}
	}
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				if info, err := e.Info(); err == nil {
					n += info.Size()
				}
			}
			return nil
		})
	}
	return n
}

// Keep implements storage.Properties.
func (w *World) Keep(ctx context.Context, name string, props map[string]string) error {
	return w.change(ctx, "zfs program keep "+strings.Join(slices.Sorted(maps.Keys(props)), ",")+" "+name, func() error {
		_, d, err := w.find(name)
		if err != nil {
			return err
		}
		maps.Copy(d.props, props)
		maps.DeleteFunc(d.props, func(k, v string) bool { return v == "" })
		return nil
	})
}

// Mount implements storage.Mounts: it opens the folder that holds the dataset's files.
// What is written there and no command followed is lost when power is cut, but for what
// the dataset's last snapshot has.
func (w *World) Mount(ctx context.Context, name string, readOnly bool) (*os.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p, d, err := w.find(name)
	if err != nil {
		return nil, err
	}
	if w.Full && !readOnly {
		return nil, fmt.Errorf("mount %s: %w", name, syscall.ENOSPC)
	}
	dir := w.back(p, name, "")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	d.dirty = d.dirty || !readOnly
	return os.Open(dir)
}

// lose takes away what was written and not synced.
func (w *World) lose(p *pool) {
	for name, d := range p.sets {
		if !d.dirty {
			continue
		}
		d.dirty = false
		dir := w.back(p, name, "")
		os.RemoveAll(dir)
		if n := len(d.snaps); n > 0 {
			_ = copyTree(dir, w.back(p, name, d.snaps[n-1].name))
		} else if set, snap, ok := strings.Cut(d.origin, "@"); ok {
			_ = copyTree(dir, w.back(p, set, snap))
		} else {
			os.MkdirAll(dir, 0o755)
		}
	}
}
