package agenttest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// World is a server's ZFS. It implements storage's Runner, Datasets, Snapshots,
// Streams, Lister, Properties, Mounts and Volumes. Its files are below
// Root: dev, sys/block and proc/spl as the kernel would show them, and the
// mounted datasets.
type World struct {
	Root string
	// Hook, when set, is called before and after each command that changes
	// something, with its words. Its error ends the command: before it had any
	// effect, or after its effect with the outcome lost.
	Hook func(command string, after bool) error
	// Full makes every pool full: nothing can be received or written by mounts.
	Full bool

	mu    sync.Mutex
	pools []*pool
	guid  uint64
	calls []string
}

type pool struct {
	name     string
	guid     uint64
	health   string
	disks    []string // kernel names
	vdevs    []string // as given to create, for printing
	opts     []string
	imported bool
	foreign  bool // another system had it last
	sets     map[string]*dataset
}

type dataset struct {
	props   map[string]string
	mounted bool
	guid    uint64
	volume  uint64      // size in bytes; 0: a file system
	origin  string      // of a clone: its snapshot
	snaps   []*snapshot // oldest first
	dirty   bool        // it was written to, and no transaction group ended since
}

type snapshot struct {
	name  string // without the dataset's
	guid  uint64
	props map[string]string
	held  bool
}

// New makes a server with disks of the given sizes in bytes, all blank.
func New(root string, disks map[string]int64) (*World, error) {
	w := &World{Root: root, guid: 1000}
	for _, dir := range []string{"dev", "sys/block", "proc/spl/kstat/zfs", "pools"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return nil, err
		}
	}
	for name, size := range disks {
		f, err := os.Create(w.dev(name))
		if err != nil {
			return nil, err
		}
		if err := errors.Join(f.Truncate(size), f.Close(), os.MkdirAll(filepath.Join(root, "sys/block", name), 0o755)); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *World) dev(name string) string { return filepath.Join(w.Root, "dev", name) }

// Run implements storage.Runner.
func (w *World) Run(ctx context.Context, name string, args ...string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	words := append([]string{name}, args...)
	call := strings.Join(words, " ")
	w.calls = append(w.calls, call)
	do, changes := w.command(words)
	if do == nil {
		return nil, fmt.Errorf("agenttest: unexpected command: %s", call)
	}
	if changes && w.Hook != nil {
		if err := w.Hook(call, false); err != nil {
			return nil, err
		}
	}
	out, err := do()
	if err == nil && changes && w.Hook != nil {
		err = w.Hook(call, true)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(words[:min(2, len(words))], " "), err)
	}
	return []byte(out), nil
}

// Calls returns the commands run since the last call of Calls.
func (w *World) Calls() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.calls
	w.calls = nil
	return c
}

// PowerCut does what a reboot does: no pool is imported, nothing is mounted.
func (w *World) PowerCut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.pools {
		w.lose(p)
		p.imported = false
		w.hide(p)
	}
}

// hide unmounts a pool's datasets and takes it from the kernel's list.
func (w *World) hide(p *pool) {
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(p.sets))) {
		d := p.sets[name]
		if d.mounted {
			os.Remove(w.mountpoint(p, name))
		}
		d.mounted = false
	}
	os.RemoveAll(filepath.Join(w.Root, "proc/spl/kstat/zfs", p.name))
}

// AddPool puts a pool on a blank disk, exported, as another system would have
// left it: of the same name as others if need be, last used elsewhere when
// foreign, with these properties on its root dataset.
func (w *World) AddPool(name, disk string, foreign bool, props map[string]string) (guid string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.newPool(name, []string{disk})
	p.foreign = foreign
	maps.Copy(p.sets[name].props, props)
	if err := w.writeDisk(p, disk, 0); err != nil {
		return "", err
	}
	w.pools = append(w.pools, p)
	return fmt.Sprint(p.guid), nil
}

// SetHealth changes an imported pool's health.
func (w *World) SetHealth(name, health string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.imported(name)
	if p == nil {
		return fmt.Errorf("no pool %s", name)
	}
	p.health = health
	return w.show(p)
}

func (w *World) newPool(name string, disks []string) *pool {
	w.guid++
	return &pool{name: name, guid: w.guid, health: "ONLINE", disks: disks, sets: map[string]*dataset{
		name: {props: map[string]string{"mountpoint": "/" + name}},
	}}
}

// show puts a pool on the kernel's list.
func (w *World) show(p *pool) error {
	dir := filepath.Join(w.Root, "proc/spl/kstat/zfs", p.name)
	return errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "state"), []byte(p.health+"\n"), 0o644))
}

func (w *World) imported(name string) *pool {
	for _, p := range w.pools {
		if p.name == name && p.imported {
			return p
		}
	}
	return nil
}

// mountpoint is where a dataset is mounted. The mount is a symbolic link to a
// folder below Root/pools.
func (w *World) mountpoint(p *pool, set string) string {
	return filepath.Join(w.Root, p.sets[p.name].props["mountpoint"]+strings.TrimPrefix(set, p.name))
}

func (w *World) mount(p *pool, set string) error {
	d := p.sets[set]
	at := w.mountpoint(p, set)
	back := w.back(p, set, "")
	d.mounted = true
	if set == p.name {
		// The root holds the mountpoints of the others: a plain folder.
		return os.MkdirAll(at, 0o755)
	}
	return errors.Join(os.MkdirAll(back, 0o755), os.Symlink(back, at))
}

// String prints pools and datasets, sorted.
func (w *World) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	for _, p := range w.pools {
		state := "exported"
		if p.imported {
			state = "imported"
		}
		fmt.Fprintf(&b, "pool %s %s %s: %s\n", p.name, p.health, state, strings.Join(p.vdevs, " "))
		if len(p.opts) > 0 {
			fmt.Fprintf(&b, "  options %s\n", strings.Join(p.opts, " "))
		}
		for _, name := range slices.Sorted(maps.Keys(p.sets)) {
			d := p.sets[name]
			var props []string
			for _, k := range slices.Sorted(maps.Keys(d.props)) {
				props = append(props, k+"="+d.props[k])
			}
			mounted := ""
			if d.mounted {
				mounted = " mounted"
			}
			if d.volume > 0 {
				mounted += fmt.Sprintf(" volume of %d", d.volume)
			}
			fmt.Fprintf(&b, "  %s%s %s\n", name, mounted, strings.Join(props, " "))
			if d.origin != "" {
				fmt.Fprintf(&b, "    clone of %s\n", d.origin)
			}
			for _, s := range d.snaps {
				fmt.Fprintf(&b, "    @%s\n", s.name)
			}
		}
	}
	return b.String()
}
